package ctl

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/modeltier/modeltier/tier"
	"github.com/spf13/pflag"
)

func (o *options) limits() spec {
	var ram, swap, reserve size
	return spec{
		use: "limits", short: "Show the limits, or change them",
		long: `Without a flag, shows what may be used and what is. With flags, changes those limits, at
once and for the next start of the server as well; models leave for lower ones. A limit
beneath what cannot leave is refused. A SIZE is such as 5GB, 320MiB or 0.5G; 1 GB is 2^30
bytes; 0 is none.`,
		flags: func(fs *pflag.FlagSet) {
			fs.Var(&ram, "ram", "hold at most this `SIZE` of weights in memory")
			fs.Var(&swap, "swap", "map at most this `SIZE` of weights beyond that")
			fs.Var(&reserve, "reserve", "leave this `SIZE` of the machine's memory free")
		},
		run: func(ctx context.Context, s *session, _ []string) error {
			change := make(map[string]any)
			for key, to := range map[string]size{"ram_max_gb": ram, "swap_max_gb": swap, "ram_reserved_gb": reserve} {
				if to.said {
					change[key] = to.bytes.GB()
				}
			}
			if len(change) == 0 {
				return s.showLimits(ctx)
			}
			answer, err := s.ask(ctx, map[string]any{"update_limits": change})
			if err != nil {
				return err
			}
			if s.json {
				return writeJSON(s.out, answer)
			}
			var a struct {
				Old map[string]float64 `json:"old_limits"`
				New map[string]float64 `json:"new_limits"`
			}
			if err := json.Unmarshal(answer, &a); err != nil {
				return err
			}
			rows := [][]string{{"", "BEFORE", "NOW"}}
			for _, l := range [][2]string{{"ram", "ram_max_gb"}, {"swap", "swap_max_gb"}, {"reserve", "ram_reserved_gb"}} {
				before, _ := tier.FromGB(a.Old[l[1]])
				now, _ := tier.FromGB(a.New[l[1]])
				rows = append(rows, []string{l[0], limitText(before), limitText(now)})
			}
			return table(s.out, rows)
		},
	}
}

func (s *session) showLimits(ctx context.Context) error {
	st, err := s.status(ctx)
	if err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.out, st.some(nil, "limits", "ram", "swap", "memory", "memory_error"))
	}
	err = table(s.out, [][]string{
		{"", "LIMIT", "USED", "ROOM"},
		{"ram", limitText(st.Limits.RAM), st.RAM.Used.String(), st.RAM.Room.String()},
		{"swap", limitText(st.Limits.Swap), st.Swap.Used.String(), st.Swap.Room.String()},
		{"reserve", limitText(st.Limits.Reserved), "", ""},
		{"one model", limitText(st.Limits.MaxModel), "", ""},
	})
	if err != nil {
		return err
	}
	if st.MemoryError != "" {
		fmt.Fprintf(s.out, "\nthe machine's memory cannot be read: %s\n", clean(st.MemoryError))
		return nil
	}
	fmt.Fprintf(s.out, "\nthe machine has %v of %v available\n", st.Memory.Available, st.Memory.Total)
	return nil
}

func (o *options) optimize() spec {
	return spec{
		use: "optimize", short: "Move models to where they are worth most, by what is known of their use",
		long: `Has the server plan moves by what it learned of use, and start them. Prints what it
started and why; modeltier ps shows how far that is. Nothing has to be started by hand:
the server does the same when it is idle.`,
		run: func(ctx context.Context, s *session, _ []string) error {
			answer, err := s.ask(ctx, map[string]any{"auto_optimize": true})
			if err != nil {
				return err
			}
			if s.json {
				return writeJSON(s.out, answer)
			}
			var a struct{ Optimizations []string }
			if err := json.Unmarshal(answer, &a); err != nil {
				return err
			}
			if len(a.Optimizations) == 0 {
				fmt.Fprintln(s.out, "Nothing is worth moving now.")
			}
			for _, line := range a.Optimizations {
				fmt.Fprintln(s.out, clean(line))
			}
			return nil
		},
	}
}
