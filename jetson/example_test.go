package jetson_test

import (
	"errors"
	"fmt"

	"github.com/modeltier/modeltier/jetson"
	"github.com/modeltier/modeltier/tier"
)

// A line without root on an Orin Nano: the memory controller and the engines are
// not printed.
func ExampleParse() {
	r, err := jetson.Parse("RAM 5711/7620MB (lfb 902x32kB) SWAP 611/3810MB (cached 9MB) CPU [12%@1510,off] GR3D_FREQ 96% gpu@63.062C VDD_IN 13840mW/9021mW")
	if err != nil {
		fmt.Println(err)
		return
	}
	hot, _ := r.Hottest()
	fmt.Println(r.RAMUsed, "of", r.RAMTotal, "used, largest free block", r.LargestFreeBlock)
	load, _ := r.GPULoad().Get()
	fmt.Println("GPU", load, "% at", hot.Now, "°C")
	_, known := r.EMCLoad().Get()
	fmt.Println("EMC load known:", known)
	// Output:
	// 5.6 GiB of 7.4 GiB used, largest free block 32.0 KiB
	// GPU 96 % at 63.062 °C
	// EMC load known: false
}

// On other machines a program keeps the defaults.
func ExampleDetect() {
	limits, probe := tier.DefaultLimits(), tier.MemoryProbe(nil)
	board, err := jetson.Detect()
	switch {
	case errors.Is(err, jetson.ErrNotJetson): // any other machine
	case err != nil:
		fmt.Println(err)
	default:
		limits, probe = board.Limits(), board.Probe()
	}
	_, _ = limits, probe // of a modeltier.Config
}

func ExampleLimitsFor() {
	for _, seen := range []tier.Bytes{3470, 7620, 15656} {
		l := jetson.LimitsFor(seen * tier.MiB)
		fmt.Printf("%v seen: ram %v, swap %v, reserved %v\n", seen*tier.MiB, l.RAM, l.Swap, l.Reserved)
	}
	// Output:
	// 3.4 GiB seen: ram 1.8 GiB, swap 3.5 GiB, reserved 512.0 MiB
	// 7.4 GiB seen: ram 5.0 GiB, swap 10.0 GiB, reserved 1.0 GiB
	// 15.3 GiB seen: ram 11.5 GiB, swap 23.0 GiB, reserved 2.0 GiB
}
