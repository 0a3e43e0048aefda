package tier

// Reason is a stable word for why something moved or gave way. It is fit for a
// metric's label: there are few of them, and none holds a name or a number. The
// details stand beside it (Step.Why, EvictEvent.Why).
//
// Why a request was refused is told by the error's code (see [Code]), which is
// as stable.
type Reason string

// Reasons that modeltier itself gives. A Placement may give others; they should be
// as few and as stable.
const (
	// ReasonDemand: a request or a hot load waits for the model.
	ReasonDemand Reason = "demand"
	// ReasonRoom: it gives way to a model that is wanted.
	ReasonRoom Reason = "room"
	// ReasonDevice: it gives way because a load found no memory in one piece,
	// though the account had room.
	ReasonDevice Reason = "device"
	// ReasonPressure: the machine is short of memory.
	ReasonPressure Reason = "pressure"
	// ReasonOverdraft: models take more memory than was declared for them.
	ReasonOverdraft Reason = "overdraft"
	// ReasonLimits: a limit is lowered.
	ReasonLimits Reason = "limits"
	// ReasonOrder: its owner ordered the move.
	ReasonOrder Reason = "order"
	// ReasonRemoved: it leaves the library.
	ReasonRemoved Reason = "removed"
	// ReasonReconfigured: its description was replaced by another.
	ReasonReconfigured Reason = "reconfigured"
	// ReasonCrashed: its weights left memory by themselves.
	ReasonCrashed Reason = "crashed"
	// ReasonHome: it goes to its home tier.
	ReasonHome Reason = "home"
	// ReasonRebalance: by what was learned of use, it is worth more elsewhere.
	ReasonRebalance Reason = "rebalance"
	// ReasonPrefetch: it is expected to be asked for.
	ReasonPrefetch Reason = "prefetch"
)
