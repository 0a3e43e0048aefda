//go:build !unix

package ctl

import "os"

// fromTerminal reports whether a signal reached the programs of this terminal as well.
func fromTerminal(s os.Signal) bool { return s == os.Interrupt }

// terminate ends a process: there is no way to ask it.
func terminate(p *os.Process) error { return p.Kill() }
