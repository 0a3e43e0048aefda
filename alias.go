package modeltier

import (
	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

// The words of package tier that a caller of the Manager needs.
type (
	Model       = tier.Model
	Limits      = tier.Limits
	Request     = tier.Request
	Choice      = tier.Choice
	Priority    = tier.Priority
	Selector    = tier.Selector
	Placement   = tier.Placement
	MemoryProbe = tier.MemoryProbe
	Mover       = tier.Mover
)

// Priorities of a Request.
const (
	Balanced = tier.Balanced
	Speed    = tier.Speed
	Quality  = tier.Quality
)

// Errors of the Manager's methods; see package tier for the typed errors that
// carry the numbers.
var (
	ErrClosed         = tier.ErrClosed
	ErrNotFound       = tier.ErrNotFound
	ErrExists         = tier.ErrExists
	ErrNoCapableModel = tier.ErrNoCapableModel
	ErrTooLarge       = tier.ErrTooLarge
	ErrNoCapacity     = tier.ErrNoCapacity
	ErrBusy           = tier.ErrBusy
	ErrInUse          = tier.ErrInUse
	ErrLimits         = tier.ErrLimits
	ErrStuck          = tier.ErrStuck
	ErrInvalid        = tier.ErrInvalid
	ErrMove           = tier.ErrMove
	ErrDamaged        = tier.ErrDamaged
	ErrPanic          = tier.ErrPanic
)

// Job is background work: a hot load, a move, a removal.
type Job = hotload.Job

// Progress is how far a Job has come.
type Progress = hotload.Progress
