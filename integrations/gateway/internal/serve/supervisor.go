package serve

import (
	"net"
	"time"
)

// notifyVariable is the environment variable with which systemd names the socket that a
// service of Type=notify tells its state to (sd_notify(3)).
const notifyVariable = "NOTIFY_SOCKET"

// What a supervisor is told.
const (
	ready     = "READY=1"
	reloading = "RELOADING=1"
	stopping  = "STOPPING=1"
)

// supervisor is what started the server, if it wants to know how that is doing.
type supervisor struct {
	socket string // "": it does not
}

func newSupervisor(env func(string) (string, bool)) *supervisor {
	socket, _ := env(notifyVariable)
	return &supervisor{socket}
}

// tell tells it the state. What it does not take, it does without: a service does not
// fail because of that.
func (s *supervisor) tell(state string) {
	if s == nil || s.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"}) // "@…" is an abstract name
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(time.Second)) // it may read nothing
	conn.Write([]byte(state))
}
