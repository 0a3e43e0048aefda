// Package jetson makes modeltier at home on NVIDIA's Jetson boards, where CPU and
// GPU share one memory, in two lines:
//
//	board, err := jetson.Detect()
//	cfg.Limits, cfg.Probe = board.Limits(), board.Probe()
//
// The three names that matter: [Detect] finds out what board this is ([Board]:
// limits, power mode, swap, storage, and [Board.Advise] for its owner). [Probe] is
// a tier.MemoryProbe that adds temperature, power, GPU load and fragmentation to
// the bytes. [Parse] reads a line of tegrastats, of any release from L4T R24 to
// R39, into a [Reading].
//
// tegrastats is run as one unprivileged child process for all who read it
// ([Tegrastats]), started by the first and ended by the last. Nothing else is
// started, and nothing on the board is changed.
//
// The package does not promise figures that tegrastats does not print without
// root (EMC, engine clocks), nor that a large CUDA allocation succeeds because
// there is room: a loader's failure stays a normal event. A Probe by itself sees
// the machine and not the container around it; a Manager lays it over a probe that
// does (see [Probe.Over]). All of it was
// written from captured lines and NVIDIA's documents, without a board at hand. It
// builds on every system; off a Jetson, Detect returns [ErrNotJetson].
package jetson
