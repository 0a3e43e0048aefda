//go:build !linux

package llama

import "github.com/modeltier/modeltier/tier"

// present returns how much is mapped of the files of a model that is loaded: it is not
// told here how much of that is present.
func (m *Mover) present(_ string, live *Model) tier.Bytes { return live.takes.Mapped }
