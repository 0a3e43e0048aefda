//go:build linux

package process

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// fakeManager brings an engine to a stage, says so, and waits to be killed.
func fakeManager(args []string) int {
	var (
		f     fake
		flags = flag.NewFlagSet("manager", flag.ExitOnError)
		dir   = flags.String("state", "", "")
		path  = flags.String("path", "", "")
		stage = flags.String("stage", "", "")
		token = flags.String("token", "", "")
		how   = flags.String("fake", "{}", "")
		bare  = flags.Bool("bare", false, "no cgroup")
		alone = flags.Bool("alone", false, "no guard")
	)
	flags.Parse(args)
	if err := json.Unmarshal([]byte(*how), &f); err != nil {
		return 2
	}
	sys := newSystem()
	if *bare {
		sys.cgroups = nil
	}
	if *alone {
		sys.reaper = nil
	}
	reached := func() { fmt.Println("reached", *stage) }
	refill := func(ctx context.Context, _ string, _ func(tier.Bytes)) error {
		reached()
		<-ctx.Done()
		return ctx.Err()
	}
	engine := f.engine()
	engine.Env = append(engine.Env, *token)
	engine.Standby = StandbyFreeze
	opts := Options{Engine: engine, StateDir: *dir}
	if *stage == "thawing" {
		opts.Refill = refill
	}
	if *stage == "freezing" && sys.pageOut != nil {
		sys.pageOut = func(ctx context.Context, _ int, _ []region, _ func(tier.Bytes)) error {
			reached()
			<-ctx.Done()
			return ctx.Err()
		}
	}
	m, err := newMover(sys, opts)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	info, err := os.Stat(*path)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	model := tier.Model{Name: "model", Path: *path, Size: tier.Bytes(info.Size())}
	move := func(from, to tier.Tier) error {
		return m.Move(context.Background(), tier.Move{Model: model, From: from, To: to}, nil)
	}
	if *stage == "starting" {
		go func() {
			for s := m.Status(); len(s.Engines) == 0 || s.Engines[0].Pid == 0 || f.Child && s.Engines[0].Others == 0; s = m.Status() {
				time.Sleep(time.Millisecond)
			}
			reached()
		}()
	}
	err = move(tier.Storage, tier.RAM)
	if err == nil && *stage != "ram" {
		err = move(tier.RAM, tier.Swap)
		if err == nil && *stage == "thawing" {
			m.sys.dropAll(m.slots["model"].files)
			err = move(tier.Swap, tier.RAM)
		}
	}
	if err != nil {
		fmt.Println(err)
		return 2
	}
	if *stage == "ram" || *stage == "frozen" {
		reached()
	}
	select {}
}
