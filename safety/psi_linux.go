package safety

import (
	"bytes"

	"github.com/modeltier/modeltier/tier"
)

// parsePSI reads the text of a memory pressure file, of the machine or of a
// cgroup, and raises the shares of p to what it says.
func parsePSI(path string, text []byte, p *tier.Pressure) error {
	seen := false
	for l := (lines{text}); ; {
		line, ok := l.next()
		if !ok {
			break
		}
		kind, rest := word(line)
		var avg10, avg60 *float64
		switch string(kind) {
		case "some":
			avg10, avg60 = &p.Some10, &p.Some60
		case "full":
			avg10, avg60 = &p.Full10, &p.Full60
		default:
			continue
		}
		a, rest := word(rest)
		b, _ := word(rest)
		ten, ok1 := share(a, "avg10=")
		sixty, ok2 := share(b, "avg60=")
		if !ok1 || !ok2 {
			return invalid(path, line, "must hold avg10 and avg60, each from 0 to 100")
		}
		*avg10, *avg60 = max(*avg10, ten), max(*avg60, sixty)
		seen = seen || string(kind) == "some"
	}
	if !seen {
		return invalid(path, text, "must hold a line of some")
	}
	p.HasPSI = true
	return nil
}

func share(text []byte, key string) (float64, bool) {
	value, ok := bytes.CutPrefix(text, []byte(key))
	if !ok {
		return 0, false
	}
	return percent(value)
}
