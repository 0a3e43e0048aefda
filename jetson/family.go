package jetson

import (
	"slices"
	"strings"
)

// Family is a kind of board.
type Family string

const (
	UnknownFamily Family = ""
	Thor          Family = "Jetson AGX Thor"
	AGXOrin       Family = "Jetson AGX Orin"
	OrinNX        Family = "Jetson Orin NX"
	OrinNano      Family = "Jetson Orin Nano"
	AGXXavier     Family = "Jetson AGX Xavier"
	XavierNX      Family = "Jetson Xavier NX"
	TX2           Family = "Jetson TX2"
	TX1           Family = "Jetson TX1"
	Nano          Family = "Jetson Nano"
)

// String returns the name, "Tegra board" for an unknown one.
func (f Family) String() string {
	if f == UnknownFamily {
		return "Tegra board"
	}
	return string(f)
}

// parts are the part numbers of modules, as "compatible" of the device tree has
// them ("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005"; the first is
// carrier and module, and one carrier takes several modules). How much memory a
// module has is asked of the kernel, not of this table.
var parts = []struct {
	prefix string
	family Family
}{
	{"p3834-", Thor},
	{"p3701-", AGXOrin},
	{"p3767-0000", OrinNX},
	{"p3767-0001", OrinNX},
	{"p3767-", OrinNano}, // 0003 8 GB, 0004 4 GB, 0005 the developer kit's
	{"p2888-", AGXXavier},
	{"p3668-", XavierNX},
	{"p3310-", TX2},
	{"p3489-", TX2},
	{"p3636-", TX2}, // TX2 NX
	{"p2180-", TX1},
	{"p3448-", Nano},
}

// readCompatible returns the chip and the module's part number from "compatible"
// of the device tree: strings that end in NUL, the most specific first.
func readCompatible(text string) (soc, part string) {
	for entry := range strings.SplitSeq(text, "\x00") {
		name, ok := strings.CutPrefix(entry, "nvidia,")
		if !ok {
			continue
		}
		if strings.HasPrefix(name, "tegra") && soc == "" {
			soc = name
		}
		for one := range strings.SplitSeq(name, "+") {
			for _, p := range parts {
				if part == "" && strings.HasPrefix(one, p.prefix) {
					part = one
				}
			}
		}
	}
	return soc, part
}

// familyOf goes by the part number, else by the name, longer names first, since
// "Orin Nano" is a "Nano" too.
func familyOf(part, model, soc string) Family {
	for _, p := range parts {
		if part != "" && strings.HasPrefix(part, p.prefix) {
			return p.family
		}
	}
	for _, f := range [...]Family{Thor, AGXOrin, OrinNX, OrinNano, AGXXavier, XavierNX, TX2, TX1, Nano} {
		if strings.Contains(model, strings.TrimPrefix(string(f), "Jetson ")) {
			return f
		}
	}
	if soc == "tegra264" {
		return Thor // the chip of no other family
	}
	return UnknownFamily
}

// Guess says which family printed a reading, by its rails and sensors, for lines
// that come without their board. UnknownFamily: it cannot be told.
func Guess(r Reading) Family {
	rail := func(names ...string) bool {
		for _, have := range r.Rails {
			for _, name := range names {
				if have.Name == name {
					return true
				}
			}
		}
		return false
	}
	sensor := func(names ...string) bool {
		for _, have := range r.Temperatures {
			if slices.Contains(names, have.Name) {
				return true
			}
		}
		return false
	}
	switch {
	case rail("VDD_CPU_SOC_MSS"):
		return Thor
	case rail("VDD_GPU_SOC"):
		return AGXOrin
	case rail("SYS5V"):
		return AGXXavier
	case rail("POM_5V_IN"):
		return Nano
	case sensor("BCPU"):
		return TX2
	case sensor("AUX"):
		return XavierNX
	case sensor("CV0") && len(r.CPUs) <= 6:
		// JetPack 5 prints these sensors for an Orin Nano too, and an Orin NX 8 GB has
		// as many cores.
	case sensor("cv0", "CV0") && len(r.CPUs) <= 8:
		return OrinNX
	case sensor("soc0", "SOC0") && len(r.CPUs) <= 6:
		return OrinNano
	}
	return UnknownFamily
}
