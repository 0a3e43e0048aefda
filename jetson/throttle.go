package jetson

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// throttles is where the kernel says that it slows the board down.
type throttles struct {
	heat  []place // cooling devices "gpu-throttle-alert": 0, or the step of slowing down
	power []place // counters "oc3_event_cnt" of over-current and under-voltage events
}

type place struct{ name, path string }

// findThrottles looks for them below sys. JetPack 5 and later have them.
func findThrottles(sys string) throttles {
	var t throttles
	for _, dir := range glob(sys, "class/thermal/cooling_device*") {
		kind, _ := readLine(filepath.Join(dir, "type"))
		if part, ok := strings.CutSuffix(kind, "-throttle-alert"); ok {
			t.heat = append(t.heat, place{name: part, path: filepath.Join(dir, "cur_state")})
		}
	}
	for _, path := range glob(sys, "class/hwmon/hwmon*/oc[0-9]_event_cnt") {
		name, _, _ := strings.Cut(filepath.Base(path), "_")
		t.power = append(t.power, place{name: name, path: path})
	}
	return t
}

// throttleState is one look at throttles.
type throttleState struct {
	throttles
	hot    []string // parts of the chip that are slowed down for heat
	counts []uint64 // of power, since boot
}

func (t throttles) read() throttleState {
	s := throttleState{throttles: t, counts: make([]uint64, len(t.power))}
	for _, p := range t.heat {
		if n, ok := readNumber(p.path); ok && n > 0 {
			s.hot = append(s.hot, p.name)
		}
	}
	for i, p := range t.power {
		s.counts[i], _ = readNumber(p.path)
	}
	return s
}

// powerEvents are the meanings of the counters on Orin and Thor. The events of
// Xavier have the same names; what they stand for there is not documented.
var powerEvents = map[string]string{
	"oc1": "supply voltage too low",
	"oc2": "average current too high",
	"oc3": "peak current too high",
}

// notes says in words what there is to say. before is the counts of the look
// before, nil where this is the first: what happened earlier is not news.
func (s throttleState) notes(before []uint64) []string {
	var out []string
	if len(s.hot) > 0 {
		out = append(out, "The board slows down for heat: "+strings.Join(s.hot, ", ")+".")
	}
	for i, n := range s.counts {
		if i >= len(before) || n <= before[i] {
			continue
		}
		name := s.power[i].name
		why := powerEvents[name]
		if why == "" {
			why = "power limit reached"
		}
		out = append(out, fmt.Sprintf("The board slowed down for power %d times since the last look (%s: %s). Check the power supply and the power mode.", n-before[i], name, why))
	}
	return out
}

func readNumber(path string) (uint64, bool) {
	line, err := readLine(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(line, 10, 64)
	return n, err == nil
}
