// Package jetson supports NVIDIA's Jetson boards, where CPU and GPU share one
// memory. Two lines configure a Manager for the board:
//
//	board, err := jetson.Detect()
//	cfg.Limits, cfg.Probe = board.Limits(), board.Probe()
//
// The three names that matter: [Detect] identifies the board ([Board]: limits,
// power mode, swap, storage, and [Board.Advise] for its owner). [Probe] is a
// tier.MemoryProbe that adds temperature, power, GPU load and fragmentation to the
// bytes. [Parse] reads a line of tegrastats, of any release from L4T R24 to R39,
// into a [Reading].
//
// tegrastats runs as one unprivileged child process that all its readers share
// ([Tegrastats]). The first reader starts it and the last one ends it, with all
// that it started. Nothing else is started, and nothing on the board is changed.
//
// The package does not promise figures that tegrastats prints only for root (EMC,
// engine clocks), nor that a large CUDA allocation succeeds because there is room:
// a load that fails remains a normal event. A Probe alone does not see containers;
// a Manager combines it with a probe that does (see [Probe.Over]). The package was
// written from captured lines and NVIDIA's documents, without a board. It builds on
// every system; on any other machine Detect returns [ErrNotJetson].
package jetson
