package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modeltier/modeltier/benchmarks/policies"
	"github.com/modeltier/modeltier/optimizer"
	"github.com/modeltier/modeltier/tier"
)

// placement is one of those to compare.
type placement struct {
	name string
	make func(without optimizer.Part) tier.Placement
}

// placements are those to compare, LRU first: the others are told by it.
var placements = []placement{
	{"lru", func(optimizer.Part) tier.Placement { return new(optimizer.LRU) }},
	{"lfu", func(optimizer.Part) tier.Placement { return new(policies.LFU) }},
	{"gdsf", func(optimizer.Part) tier.Placement { return new(policies.GDSF) }},
	{"learned", func(without optimizer.Part) tier.Placement {
		return optimizer.NewLearned(optimizer.Options{Without: without})
	}},
}

// parts are those of the learned placement that can be left out.
var parts = map[string]optimizer.Part{"interarrival": optimizer.Interarrival, "logit": optimizer.Logit, "prefetch": optimizer.Prefetch}

type options struct {
	traces     string
	capacities []capacity
	policies   []string
	real       bool
	hints      float64
	cached     float64
	json       bool
	seed       uint64
	without    optimizer.Part
}

func main() {
	var o options
	var capacities, names, clock, without string
	flag.StringVar(&o.traces, "traces", "", "folder of traces; none: workloads of its own making")
	flag.StringVar(&capacities, "capacities", "5/10,16/32,64/128", "machines, as GB of ram / GB of swap")
	flag.StringVar(&names, "policies", "lru,lfu,gdsf,learned", "placements to play")
	flag.StringVar(&clock, "clock", "trace", "trace: time stands still while a request is served; real: it does not")
	flag.Float64Var(&o.hints, "hints", 0, "share of the requests that are announced when the one before arrives, 0 to 1")
	flag.Float64Var(&o.cached, "cached", 0, "GB beside the limit of ram that cached bytes may take; 0: nothing is cached")
	flag.StringVar(&without, "without", "", "parts that the learned placement lacks: interarrival, logit, prefetch")
	flag.BoolVar(&o.json, "json", false, "print one object a line")
	flag.Uint64Var(&o.seed, "seed", 1, "of the workloads of its own making")
	flag.Parse()
	if err := o.parse(capacities, names, clock, without); err != nil {
		fmt.Fprintln(os.Stderr, "replay:", err)
		os.Exit(2)
	}
	withBubbles(func(bubble func(string, func(*testing.T))) int {
		if err := replay(&o, bubble); err != nil {
			fmt.Fprintln(os.Stderr, "replay:", err)
			return 1
		}
		return 0
	})
}

func (o *options) parse(capacities, names, clock, without string) error {
	for _, text := range strings.Split(capacities, ",") {
		var c capacity
		if n, err := fmt.Sscanf(text, "%f/%f", &c.ram, &c.swap); err != nil || n != 2 || c.ram <= 0 || c.swap < 0 {
			return fmt.Errorf("capacity %q must be like 5/10", text)
		}
		o.capacities = append(o.capacities, c)
	}
	o.policies = strings.Split(names, ",")
	for _, name := range o.policies {
		if !slices.ContainsFunc(placements, func(p placement) bool { return p.name == name }) {
			return fmt.Errorf("policy %q is not known", name)
		}
	}
	if without != "" {
		for _, name := range strings.Split(without, ",") {
			part, known := parts[name]
			if !known {
				return fmt.Errorf("part %q is not known", name)
			}
			o.without |= part
		}
	}
	if clock != "trace" && clock != "real" {
		return fmt.Errorf("clock %q must be trace or real", clock)
	}
	o.real = clock == "real"
	if !(o.hints >= 0 && o.hints <= 1) {
		return fmt.Errorf("hints %v must be from 0 to 1", o.hints)
	}
	if !(o.cached >= 0 && o.cached <= 1e9) {
		return fmt.Errorf("cached %v must be GB, from 0 to 1e9", o.cached)
	}
	return nil
}

// replay plays every trace on every machine under every policy.
func replay(o *options, bubble func(string, func(*testing.T))) error {
	traces := ownTraces(o.seed)
	if o.traces != "" {
		var err error
		if traces, err = readTraces(o.traces); err != nil {
			return err
		}
	}
	rep := newReport(o, os.Stdout, traces)
	for _, c := range o.capacities {
		for _, t := range traces {
			rows := []row{}
			for _, p := range placements {
				if !o.plays(p.name) {
					continue
				}
				r := &run{trace: t, capacity: c, policy: p.name, make: func() tier.Placement { return p.make(o.without) }, real: o.real, hints: o.hints, cached: o.cached}
				var f figures
				var err error
				began := time.Now()
				bubble(t.name, func(t *testing.T) { f, err = r.play(t.Context()) })
				if err != nil {
					return fmt.Errorf("%s at %g/%g under %s: %w", t.name, c.ram, c.swap, p.name, err)
				}
				f.Took = time.Since(began)
				rows = append(rows, row{run: r, figures: f})
			}
			rep.add(t, c, rows, bound(t, c, o.cached))
		}
	}
	return rep.close()
}

func (o *options) plays(policy string) bool {
	return policy == "lru" || slices.Contains(o.policies, policy) // the others are told by LRU's
}

// withBubbles calls fn, once, with a function that runs another in a bubble of
// virtual time; fn's result is the program's exit status. Bubbles come with tests
// only, so the program calls itself one.
func withBubbles(fn func(bubble func(name string, inside func(*testing.T))) int) {
	everything := func(string, string) (bool, error) { return true, nil }
	testing.Main(everything, []testing.InternalTest{{Name: "replay", F: func(t *testing.T) {
		os.Exit(fn(func(name string, inside func(*testing.T)) {
			t.Run(name, func(t *testing.T) { synctest.Test(t, inside) })
		}))
	}}}, nil, nil)
}
