package mapped

import (
	"fmt"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Options are the settings of a Mover. The zero value is a good default.
type Options struct {
	// Lock bounds the bytes that are locked in memory, over all models in ram.
	// Zero: as many as the process may lock (RLIMIT_MEMLOCK; with CAP_IPC_LOCK,
	// all). tier.None: none.
	Lock tier.Bytes
	// Recheck is how often weights in ram that could not be locked are looked at,
	// and read again where the kernel took them. A model that loses pages again and
	// again is looked at less often, down to once in 32 times. Zero: 10 s.
	// Negative: never.
	Recheck time.Duration
}

func (o Options) withDefaults() (Options, error) {
	if o.Lock < 0 && o.Lock != tier.None {
		return o, &tier.InvalidError{Field: "Lock", Value: fmt.Sprint(int64(o.Lock)), Rule: "must be bytes, 0 for the default, or tier.None"}
	}
	switch o.Lock {
	case 0:
		o.Lock = tier.Unlimited
	case tier.None:
		o.Lock = 0
	}
	if o.Recheck == 0 {
		o.Recheck = 10 * time.Second
	}
	return o, nil
}
