package access

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// Listen opens the addresses, HOST:PORT or unix:PATH, all or none. Without keys only
// loopback addresses and Unix sockets are allowed; that is judged by the very address that
// is then opened, so that no name can lead elsewhere in between. A Unix socket is for this
// user only, with keys for every user that reaches its folder. One that a process left
// behind that has ended is replaced.
//
// All of them together accept as many connections as MaxConnections says.
func Listen(addrs []string, keys bool) (_ []net.Listener, err error) {
	if len(addrs) == 0 {
		return nil, errors.New("listen: there is no address")
	}
	var lns []net.Listener
	defer func() {
		if err != nil {
			for _, ln := range lns {
				ln.Close()
			}
		}
	}()
	for _, addr := range addrs {
		var ln net.Listener
		if path, ok := strings.CutPrefix(addr, "unix:"); ok {
			ln, err = listenUnix(path, keys)
		} else {
			ln, err = listenTCP(addr, keys)
		}
		if err != nil {
			return nil, fmt.Errorf("listen %q: %w", addr, err)
		}
		lns = append(lns, ln)
	}
	return limit(MaxConnections(), lns), nil
}

// Local reports whether nothing but this machine reaches the listeners.
func Local(lns []net.Listener) bool {
	for _, ln := range lns {
		if tcp, ok := ln.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
			return false
		}
	}
	return true
}

func listenTCP(addr string, keys bool) (net.Listener, error) {
	if addr == "" { // would be every interface and any port
		return nil, errors.New("must be HOST:PORT or unix:PATH")
	}
	to, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	if !keys && !to.IP.IsLoopback() { // no IP is every interface
		return nil, errors.New("other machines can reach it, and anyone there could load and unload models: " +
			"give a key (the variable MODELTIER_TOKEN, or keys in the configuration), or listen on 127.0.0.1")
	}
	ln, err := net.ListenTCP("tcp", to)
	if err != nil {
		return nil, fmt.Errorf("%w (127.0.0.1:0 takes any free port)", err)
	}
	return ln, nil
}

func listenUnix(path string, keys bool) (net.Listener, error) {
	if path == "" || path[0] == '@' {
		// The abstract ones of Linux have no owner: any user could connect.
		return nil, errors.New("must be unix: and the path of a file")
	}
	if at, err := os.Lstat(path); err == nil && at.Mode().Type() == fs.ModeSocket {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, errors.New("another process listens there")
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	mode := fs.FileMode(0o600)
	if keys {
		mode = 0o666
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// Server returns a server for the listeners of Listen, with bounds on what a client can
// take of it: headers have 15 s to arrive (a client on this machine may get little of a
// processor that engines use) and 32 KiB, a connection between requests is kept
// for 2 minutes, and an answer may take half an hour. A request may wait minutes for its
// model and then read gigabytes; what streams has to set the write deadline again as it
// flows. The time of a body is bounded by the Guard and by who reads it.
func Server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       2 * time.Minute,
		WriteTimeout:      30 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ConnState:         noteState,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}
