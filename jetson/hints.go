package jetson

import (
	"errors"
	"fmt"

	"github.com/modeltier/modeltier/tier"
)

// fragmentedBelow is the largest free block below which memory is called
// fragmented. Models have been seen to run at 32 KiB, and a 1 GiB allocation to
// fail at 4 MiB: it is a hint, and the bound is a judgement.
const fragmentedBelow = 1 * tier.MiB

// hints says in words what a line of tegrastats tells about the next load. err is
// that of Reader.Latest.
func hints(r Reading, err error) []string {
	switch {
	case errors.Is(err, ErrNoReading):
		return []string{"Temperature, power and GPU load are not known: " + err.Error() + "."}
	case err != nil:
		return []string{"Temperature, power and GPU load are out of date: " + err.Error() + "."}
	}
	var out []string
	if b := r.LargestFreeBlock; b > 0 && b < fragmentedBelow {
		out = append(out, fmt.Sprintf("Memory is fragmented: the largest free block is %v (%d of them). A large CUDA allocation may fail although there is room; a restart of the board mends it.", b, r.LargestFreeBlocks))
	}
	if t, ok := r.Hottest(); ok && t.Now >= hotAt {
		out = append(out, fmt.Sprintf("The board is hot: sensor %s is at %.0f °C.", t.Name, t.Now))
	}
	return out
}

// hotAt is where heat is worth a hint: some degrees below where boards slow
// themselves down. The throttling itself is read from the kernel where it says.
const hotAt Celsius = 95
