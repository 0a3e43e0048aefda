package process

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
)

// listener implements system.listener: the inodes of listening sockets in /proc/net are
// looked for among the files of processes.
func (p proc) listener(port, leader int, members []int) (stranger int, err error) {
	filesystem, err := procfs.NewFS(string(p))
	if err != nil {
		return 0, err
	}
	sockets, err := p.listening(port)
	if err != nil {
		return 0, err
	}
	for _, pid := range members {
		if one, err := filesystem.Proc(pid); err == nil {
			for _, inode := range held(one, sockets) {
				delete(sockets, inode)
			}
		}
	}
	if len(sockets) == 0 {
		return 0, nil
	}
	all, err := filesystem.AllProcs()
	if err != nil {
		return 0, err
	}
	strangers := make(map[uint64]int)
	for _, one := range all {
		for _, inode := range held(one, sockets) {
			if slices.Contains(members, one.PID) || p.descends(one.PID, leader) { // it has left session and mark behind, as with sudo
				delete(sockets, inode)
			} else {
				strangers[inode] = one.PID
			}
		}
	}
	for inode := range sockets {
		if strangers[inode] != 0 {
			return strangers[inode], nil
		}
	}
	if len(sockets) > 0 {
		return 0, fmt.Errorf("whose the socket on port %d is cannot be seen, so that another program that has taken the port of an engine may be taken for it: %w", port, fs.ErrPermission)
	}
	return 0, nil
}

// listening returns the inodes of the sockets that get connections to a port of
// 127.0.0.1: of those that listen there the most specific.
func (p proc) listening(port int) (map[uint64]struct{}, error) {
	// Those of IPv6 alone are not told apart from those that take IPv4 as well.
	ranks := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	sockets := make([]map[uint64]struct{}, len(ranks))
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		f, err := os.Open(filepath.Join(string(p), table))
		if errors.Is(err, fs.ErrNotExist) {
			continue // without IPv6
		}
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			address, inode, ok := parseListener(lines.Text())
			if rank := slices.Index(ranks, address.Addr()); ok && rank >= 0 && int(address.Port()) == port {
				if sockets[rank] == nil {
					sockets[rank] = make(map[uint64]struct{})
				}
				sockets[rank][inode] = struct{}{}
			}
		}
		f.Close()
		if err := lines.Err(); err != nil {
			return nil, err
		}
	}
	for _, found := range sockets {
		if found != nil {
			return found, nil
		}
	}
	return nil, fmt.Errorf("nothing that can be seen listens on port %d: %w", port, fs.ErrNotExist)
}

// parseListener reads a line of /proc/net/tcp or tcp6 (proc_net(5)): the address, unmapped,
// and the inode of a socket that listens. ok is false for any other.
func parseListener(line string) (address netip.AddrPort, inode uint64, ok bool) {
	const listen = "0A" // TCP_LISTEN of include/net/tcp_states.h
	f := strings.Fields(line)
	if len(f) < 10 || f[3] != listen {
		return netip.AddrPort{}, 0, false
	}
	host, port, _ := strings.Cut(f[1], ":")
	b, err := hex.DecodeString(host)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, 0, false
	}
	for word := range slices.Chunk(b, 4) { // each is a number of the machine's
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, _ := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, 0, false
	}
	inode, err = strconv.ParseUint(f[9], 10, 64)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), inode, err == nil
}

// held returns which of the sockets a process holds, as far as we may look.
func held(one procfs.Proc, sockets map[uint64]struct{}) (found []uint64) {
	targets, err := one.FileDescriptorTargets()
	if err != nil {
		return nil
	}
	for _, target := range targets {
		number, ok := strings.CutPrefix(target, "socket:[")
		inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
		if _, wanted := sockets[inode]; ok && err == nil && wanted {
			found = append(found, inode)
		}
	}
	return found
}

// descends reports whether a process was started by one that leads to it.
func (p proc) descends(pid, leader int) bool {
	const generations = 32
	for range generations {
		if pid == leader || pid <= 1 {
			break
		}
		one, err := p.of(pid)
		if err != nil {
			return false
		}
		s, err := one.Stat()
		if err != nil {
			return false
		}
		pid = s.PPID
	}
	return pid == leader
}
