package jetson

import (
	"fmt"
	"strconv"
	"strings"
)

// PowerMode is one of nvpmodel's. The ID of a mode differs between firmwares of
// one and the same board: go by the name.
type PowerMode struct {
	ID   int
	Name string // "15W", "25W", "MAXN_SUPER", …
}

// readPower reads what nvpmodel keeps: the modes in /etc/nvpmodel.conf and the
// one in force in /var/lib/nvpmodel/status. nvpmodel itself is not run: some
// versions wait for an answer.
func (b *Board) readPower() error {
	conf, err := readText(b.path("etc", "nvpmodel.conf"))
	if err != nil {
		return err
	}
	var standard int
	b.PowerModes, standard = parsePowerModes(conf)
	id := standard
	if status, err := readText(b.path("var", "lib", "nvpmodel", "status")); err == nil {
		if set, ok := parsePowerStatus(status); ok {
			id = set
		}
	}
	for _, m := range b.PowerModes {
		if m.ID == id {
			b.Power = m
			return nil
		}
	}
	return fmt.Errorf("nvpmodel.conf has no mode %d", id)
}

// parsePowerModes reads the lines "< POWER_MODEL ID=0 NAME=15W >" and
// "< PM_CONFIG DEFAULT=1 >" of nvpmodel.conf. The default is -1 where there is
// none.
func parsePowerModes(conf string) (modes []PowerMode, standard int) {
	standard = -1
	for line := range strings.Lines(conf) {
		words := strings.Fields(strings.Trim(strings.TrimSpace(line), "<>"))
		if len(words) == 0 || !strings.HasPrefix(line, "<") {
			continue
		}
		switch words[0] {
		case "POWER_MODEL":
			m, known := PowerMode{}, false
			for _, word := range words[1:] {
				if id, ok := strings.CutPrefix(word, "ID="); ok {
					n, err := strconv.Atoi(id)
					m.ID, known = n, err == nil
				}
				if name, ok := strings.CutPrefix(word, "NAME="); ok {
					m.Name = strings.Clone(name)
				}
			}
			if known && m.Name != "" {
				modes = append(modes, m)
			}
		case "PM_CONFIG":
			for _, word := range words[1:] {
				if id, ok := strings.CutPrefix(word, "DEFAULT="); ok {
					if n, err := strconv.Atoi(id); err == nil {
						standard = n
					}
				}
			}
		}
	}
	return modes, standard
}

// parsePowerStatus reads "pmode:0002".
func parsePowerStatus(status string) (int, bool) {
	_, rest, found := strings.Cut(status, "pmode:")
	digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	n, err := strconv.Atoi(digits)
	return n, found && err == nil
}

// most returns the mode without a cap on power, or else that with the highest
// one; false where the names do not tell.
func most(modes []PowerMode) (PowerMode, bool) {
	best, found, highest := PowerMode{}, false, 0
	for _, m := range modes {
		watts := watts(m.Name)
		if strings.HasPrefix(m.Name, "MAXN") {
			watts = 1 << 20
			if m.Name == "MAXN_SUPER" {
				watts++
			}
		}
		if watts > highest {
			best, found, highest = m, true, watts
		}
	}
	return best, found
}

// watts returns the cap that a mode's name states: 25 for "25W" and for
// "MODE_25W_6CORE", 0 where it states none.
func watts(name string) int {
	for word := range strings.SplitSeq(name, "_") {
		if n, ok := strings.CutSuffix(word, "W"); ok {
			if w, err := strconv.Atoi(n); err == nil && w > 0 && w < 1000 {
				return w
			}
		}
	}
	return 0
}
