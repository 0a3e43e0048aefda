package service

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sample looks at the memory of a process and its children again and again, and returns
// what ends that and tells the most that was seen: anonymous bytes, and all, pages that are
// shared by their part. Outside Linux it sees nothing.
func sample(pid int) func() (anonymous, total int64) {
	stop, ended := make(chan struct{}), make(chan struct{})
	var anonymous, total int64
	go func() {
		defer close(ended)
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
			}
			a, all := memoryOf(pid)
			anonymous, total = max(anonymous, a), max(total, all)
		}
	}()
	return func() (int64, int64) {
		close(stop)
		<-ended
		return anonymous, total
	}
}

func memoryOf(pid int) (anonymous, total int64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0 // it has ended
	}
	for scan := bufio.NewScanner(bytes.NewReader(text)); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		if len(fields) != 3 {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "Pss:":
			total += kib << 10
		case "Pss_Anon:":
			anonymous += kib << 10
		}
	}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return anonymous, total
	}
	for _, list := range lists {
		children, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for _, child := range strings.Fields(string(children)) {
			id, err := strconv.Atoi(child)
			if err != nil {
				continue
			}
			a, all := memoryOf(id)
			anonymous, total = anonymous+a, total+all
		}
	}
	return anonymous, total
}
