package jetson

import (
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Opt is a figure that a line may leave out. The zero Opt is one that was left
// out, which is not the same as a zero that was printed.
type Opt[T any] struct {
	Value T
	Known bool
}

// Some returns v as a figure that is there.
func Some[T any](v T) Opt[T] { return Opt[T]{Value: v, Known: true} }

// Get returns the figure and whether it is there.
func (o Opt[T]) Get() (T, bool) { return o.Value, o.Known }

// Or returns the figure, or other where it is not there.
func (o Opt[T]) Or(other T) T {
	if o.Known {
		return o.Value
	}
	return other
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

// Reading is one line of tegrastats. Parse makes it; String and AppendText print
// it again. What the line did not have is told from a zero that it printed: by
// an empty list, an Opt that is not Known, HasSwap, or a zero Time.
//
// Names are parts of the line that was parsed, so that a Reading which is kept
// keeps its line in memory. It is a value: whoever has one may read it from any
// goroutine as long as nobody changes it.
type Reading struct {
	// Time is when the line was printed, by the board's clock, to the second.
	// tegrastats prints no zone: it is taken to be time.Local. Zero: not printed
	// (before JetPack 5).
	Time time.Time

	// RAMUsed is MemTotal − MemFree − Buffers − Cached of /proc/meminfo. Page
	// cache, and with it mapped weights, do not count as used; neither does tmpfs.
	// Memory of CUDA does.
	RAMUsed, RAMTotal tier.Bytes
	// LargestFreeBlock is the size of the largest contiguous free block, 4 MiB at
	// most, and LargestFreeBlocks how many of that size there are. Their product is
	// not the free memory. Zero: not printed, or printed as such.
	LargestFreeBlock  tier.Bytes
	LargestFreeBlocks int

	// HasSwap is false where the line has no SWAP: no swap is on, or the build is
	// an old one. zram and disk are summed and cannot be told apart.
	HasSwap                         bool
	SwapUsed, SwapTotal, SwapCached tier.Bytes

	// IRAM is the memory on the chip (TX1 and Nano).
	IRAM Opt[IRAM]

	// CPUs are the cores in order, those that are off included.
	CPUs []CPU
	// Engines are the memory controller (EMC), the GPU (GR3D) and the fixed
	// function units, in the order of the line. A name may occur twice.
	Engines []Engine
	// MTS is the time spent in the microcode translation of Denver and Carmel
	// cores (TX2, Xavier).
	MTS Opt[MTS]
	// EDPLimit is the CPU's frequency cap by electrical design point (TX1).
	EDPLimit Opt[Hertz]
	// Temperatures are the sensors in the order of the line. A name may occur
	// twice; a sensor may be missing from one line and be back in the next.
	Temperatures []Temperature
	// Rails are the power rails in the order of the line. A name may occur twice.
	Rails []Rail

	// Unknown are the parts of the line that mean nothing to this package, in order.
	// They are not printed again.
	Unknown []string
}

// IRAM is the memory on the chip.
type IRAM struct {
	Used, Total, LargestFreeBlock tier.Bytes
}

// CPU is one core. Load is not Known for a core that is off (unplugged by the
// power mode); Freq is not Known where the line does not print it.
type CPU struct {
	Load Opt[Percent] // busy since the line before
	Freq Opt[Hertz]
}

// Off reports whether the core is unplugged.
func (c CPU) Off() bool { return !c.Load.Known }

// Engine is a unit of the chip with a clock of its own.
type Engine struct {
	// Name as printed: "EMC_FREQ", "GR3D_FREQ", "NVDEC", "NVENC0_FREQ", "APE", ….
	Name string
	// Off: the line says "off". Load and Freq are then not Known.
	Off bool
	// Load since the line before and Freq at the moment. Where the line tells
	// clusters apart, the highest of theirs.
	Load Opt[Percent]
	Freq Opt[Hertz]
	// Clusters is set where the line prints more than one figure in brackets: the
	// frequencies of the GPU's clusters, or the loads of the two halves of a PVA.
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
	// Max is the highest since tegrastats was started (JetPack 7.2).
	Max Opt[Celsius]
}

// offCelsius is what JetPack 5 prints for a sensor in a part that has no power.
const offCelsius = -256

// Live reports whether the figure is a measurement. It is not one for a sensor
// without power (-256 °C), nor for PMIC, which prints a constant 50 or 100 °C.
func (t Temperature) Live() bool { return t.Now > offCelsius && t.Name != "PMIC" }

// Rail is one power rail.
type Rail struct {
	// Name as printed: "VDD_IN", "VDD_CPU_GPU_CV", …; on AGX Xavier also "GPU",
	// "CPU", "SOC" and "CV".
	Name string
	// Now is the power of the moment, Average that since tegrastats was started.
	Now, Average Milliwatts
	// Peak is the highest since tegrastats was started (JetPack 7.2).
	Peak Opt[Milliwatts]
}

// Engine returns the first engine that has one of the names, names tried in
// order.
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

// GPU returns the GPU's engine; false where the line has none (Thor without
// root, boards without debugfs).
func (r *Reading) GPU() (Engine, bool) { return r.Engine("GR3D_FREQ", "GR3D") }

// GPULoad returns how busy the GPU is. It is not Known where the line does not
// say, nor where the "0%" in it is no measurement (see [Reading.EMCLoad]).
func (r *Reading) GPULoad() Opt[Percent] {
	gpu, ok := r.GPU()
	if emc, found := r.emc(); !ok || found && blind(emc) && blind(gpu) && gpu.Load.Value == 0 {
		return Opt[Percent]{}
	}
	return gpu.Load
}

// EMCLoad returns how busy the memory controller is at its present frequency.
// It is not Known where the line does not say. Without root, tegrastats of
// JetPack 4 and 5 prints "EMC_FREQ 0%" with no frequency, which says nothing.
func (r *Reading) EMCLoad() Opt[Percent] {
	emc, ok := r.emc()
	if !ok || blind(emc) {
		return Opt[Percent]{}
	}
	return emc.Load
}

func (r *Reading) emc() (Engine, bool) { return r.Engine("EMC_FREQ", "EMC") }

// blind reports a load without a frequency: the form that JetPack 4 and 5 print
// for what they were not allowed to read.
func blind(e Engine) bool { return e.Load.Known && !e.Freq.Known }

// Power returns the power that the whole module takes, on Thor the whole board.
// Not Known where no rail measures that: AGX Orin and AGX Xavier have none.
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

// Hottest returns the highest live temperature; false where there is none.
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
