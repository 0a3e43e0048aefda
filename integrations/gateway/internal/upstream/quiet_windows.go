package upstream

import (
	"net"
	"syscall"
	"unsafe"
)

// quiet reports whether nothing has come on a connection. One that has been closed is known
// by its use.
func quiet(c net.Conn) bool {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	const bytesToRead = 0x4004667f // FIONREAD, of winsock2.h
	var n, size uint32
	var said error
	err = raw.Control(func(fd uintptr) {
		said = syscall.WSAIoctl(syscall.Handle(fd), bytesToRead, nil, 0, (*byte)(unsafe.Pointer(&n)), uint32(unsafe.Sizeof(n)), &size, nil, 0)
	})
	return err == nil && said == nil && n == 0
}
