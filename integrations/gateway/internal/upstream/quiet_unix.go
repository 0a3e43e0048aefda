//go:build unix

package upstream

import (
	"net"
	"syscall"
)

// quiet reports whether a connection is open and nothing has come on it.
func quiet(c net.Conn) bool {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	var said error
	err = raw.Control(func(fd uintptr) {
		_, _, said = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
	})
	return err == nil && (said == syscall.EAGAIN || said == syscall.EINTR)
}
