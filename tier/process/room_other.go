//go:build unix && !linux && !darwin

package process

import "github.com/modeltier/modeltier/tier"

// room is missing here.
var room func(dir string) (tier.Bytes, error)
