package serve

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// runAsInit is the first process of a container. It runs the server as a child, passes
// signals on to it, and reaps what engines leave behind: the kernel makes such processes
// children of the first one, and each would stay a zombie. The server itself cannot do
// that, as it has children of its own: to wait for any child would take their exit
// statuses from those who wait for them. It returns the server's exit code.
func runAsInit() int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "modeltier: as the first process:", err)
		return 1
	}
	self, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	server, err := syscall.ForkExec(self, os.Args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return fail(err)
	}
	go func() {
		for s := range signals {
			_ = syscall.Kill(server, s.(syscall.Signal))
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fail(err)
		case pid != server:
		case status.Signaled():
			return 128 + int(status.Signal()) // as a shell says it
		default:
			return status.ExitStatus()
		}
	}
}
