package jetson

import (
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Opt is a figure that may be missing from a line. The zero Opt is a missing figure,
// which differs from a printed zero.
type Opt[T any] struct {
	Value T
	Known bool
}

// Some returns v as a known figure.
func Some[T any](v T) Opt[T] { return Opt[T]{Value: v, Known: true} }

// Get returns the figure and whether it is known.
func (o Opt[T]) Get() (T, bool) { return o.Value, o.Known }

func (o Opt[T]) pointer() *T {
	if !o.Known {
		return nil
	}
	return &o.Value
}

// Units of the figures in a Reading. Bytes are tier.Bytes.
type (
	Hertz      int64
	Milliwatts int32
	Celsius    float64
	Percent    int16
)

// MHz is the unit in which tegrastats prints frequencies.
const MHz Hertz = 1e6

// Reading is one line of tegrastats, made by Parse. What the line does not have
// differs from a printed zero: an empty list, an Opt that is not Known, HasSwap, or a
// zero Time.
//
// Names are parts of the parsed line, so a Reading keeps its line in memory. It may be
// read from any goroutine while no goroutine changes it.
type Reading struct {
	// Time is when the line was printed, by the board's clock, to the second, in
	// time.Local because tegrastats prints no zone. Zero: not printed (before JetPack
	// 5).
	Time time.Time

	// RAMUsed is MemTotal − MemFree − Buffers − Cached of /proc/meminfo. It excludes
	// the page cache, mapped weights and tmpfs, and includes CUDA memory.
	RAMUsed, RAMTotal tier.Bytes
	// LargestFreeBlock is the size of the largest contiguous free block, at most 4 MiB,
	// and LargestFreeBlocks the number of blocks of that size. Their product is not the
	// free memory. Zero: not printed, or printed as zero.
	LargestFreeBlock  tier.Bytes
	LargestFreeBlocks int

	// HasSwap is false if the line has no SWAP: no swap is active, or the build is old.
	// The figures are sums of zram and disk.
	HasSwap                         bool
	SwapUsed, SwapTotal, SwapCached tier.Bytes

	// IRAM is the on-chip memory (TX1 and Nano).
	IRAM Opt[IRAM]

	// CPUs are the cores in order, including those that are off.
	CPUs []CPU
	// Engines are the memory controller (EMC), the GPU (GR3D) and the fixed
	// function units, in the order of the line. A name may occur twice.
	Engines []Engine
	// MTS is the time in microcode translation of Denver and Carmel cores (TX2,
	// Xavier).
	MTS Opt[MTS]
	// EDPLimit is the CPU's frequency cap by the electrical design point (TX1).
	EDPLimit Opt[Hertz]
	// Temperatures are the sensors in the order of the line. A name may occur twice; a
	// sensor may be missing from some lines.
	Temperatures []Temperature
	// Rails are the power rails in the order of the line. A name may occur twice.
	Rails []Rail

	// Unknown are the parts of the line that this package does not know, in order.
	Unknown []string
}

// IRAM is the on-chip memory.
type IRAM struct {
	Used, Total, LargestFreeBlock tier.Bytes
}

// CPU is one core. Load is not Known if the core is off (unplugged by the power mode),
// Freq if the line does not print it.
type CPU struct {
	Load Opt[Percent] // since the previous line
	Freq Opt[Hertz]
}

// Off reports whether the core is unplugged.
func (c CPU) Off() bool { return !c.Load.Known }

// Engine is a unit of the chip with its own clock.
type Engine struct {
	// Name as printed: "EMC_FREQ", "GR3D_FREQ", "NVDEC", "NVENC0_FREQ", "APE", ….
	Name string
	// Off: the line has "off". Load and Freq are then not Known.
	Off bool
	// Load is since the previous line, Freq the current one. With Clusters, each is
	// their highest.
	Load Opt[Percent]
	Freq Opt[Hertz]
	// Clusters is set if the line prints several figures in brackets: the frequencies
	// of the GPU's clusters, or the loads of the two halves of a PVA.
	Clusters []Cluster
}

// Cluster is one of several parts of an engine.
type Cluster struct {
	Load Opt[Percent]
	Freq Opt[Hertz]
}

// MTS is the share of time in microcode translation.
type MTS struct {
	Foreground, Background Percent
}

// Temperature is one sensor.
type Temperature struct {
	// Name as printed. JetPack 6 changed CPU, GPU, SOC0, … to lower case.
	Name string
	Now  Celsius
	// Max is the highest since the start of tegrastats (JetPack 7.2).
	Max Opt[Celsius]
}

// offCelsius is printed by JetPack 5 for a sensor without power.
const offCelsius = -256

// Live reports whether the figure is a measurement: not for a sensor without power
// (-256 °C), nor for PMIC, which prints a constant 50 or 100 °C.
func (t Temperature) Live() bool { return t.Now > offCelsius && t.Name != "PMIC" }

// Rail is one power rail.
type Rail struct {
	// Name as printed: "VDD_IN", "VDD_CPU_GPU_CV", …; on AGX Xavier also "GPU",
	// "CPU", "SOC" and "CV".
	Name string
	// Now is the current power, Average the mean since the start of tegrastats.
	Now, Average Milliwatts
	// Peak is the highest since the start of tegrastats (JetPack 7.2).
	Peak Opt[Milliwatts]
}

// Engine returns the first engine with one of the names, which are tried in order.
func (r *Reading) Engine(names ...string) (Engine, bool) {
	for _, name := range names {
		for _, e := range r.Engines {
			if e.Name == name {
				return e, true
			}
		}
	}
	return Engine{}, false
}

// GPU returns the GPU's engine; false if the line has none (Thor without root, boards
// without debugfs).
func (r *Reading) GPU() (Engine, bool) { return r.Engine("GR3D_FREQ", "GR3D") }

// GPULoad returns the load of the GPU. It is not Known if the line does not have it, or
// has a "0%" that is not a measurement (see [Reading.EMCLoad]).
func (r *Reading) GPULoad() Opt[Percent] {
	gpu, ok := r.GPU()
	if emc, found := r.emc(); !ok || found && blind(emc) && blind(gpu) && gpu.Load.Value == 0 {
		return Opt[Percent]{}
	}
	return gpu.Load
}

// EMCLoad returns the load of the memory controller at its current frequency. It is not
// Known if the line does not have it. Without root, JetPack 4 and 5 print "EMC_FREQ 0%"
// without a frequency, which is not a measurement.
func (r *Reading) EMCLoad() Opt[Percent] {
	emc, ok := r.emc()
	if !ok || blind(emc) {
		return Opt[Percent]{}
	}
	return emc.Load
}

func (r *Reading) emc() (Engine, bool) { return r.Engine("EMC_FREQ", "EMC") }

// blind reports a load without a frequency: the form in which JetPack 4 and 5 print
// what they may not read.
func blind(e Engine) bool { return e.Load.Known && !e.Freq.Known }

// Power returns the power of the whole module, on Thor of the whole board. It is not
// Known if no rail measures that, as on AGX Orin and AGX Xavier.
func (r *Reading) Power() Opt[Milliwatts] {
	for _, name := range [...]string{"VDD_IN", "POM_5V_IN", "VIN"} {
		for _, rail := range r.Rails {
			if rail.Name == name {
				return Some(rail.Now)
			}
		}
	}
	return Opt[Milliwatts]{}
}

// Hottest returns the highest live temperature; false if there is none.
func (r *Reading) Hottest() (Temperature, bool) {
	var hot Temperature
	found := false
	for _, t := range r.Temperatures {
		if t.Live() && (!found || t.Now > hot.Now) {
			hot, found = t, true
		}
	}
	return hot, found
}
