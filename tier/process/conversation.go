package process

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modeltier/modeltier/internal/regular"
	"github.com/modeltier/modeltier/tier"
)

// Conversations bounds what engines save of them; see Engine.Save.
type Conversations struct {
	// MaxBytes is how much is kept in Options.StateDir, of all engines together. What was
	// neither saved nor restored for longest is dropped first. 0: 8 GiB.
	MaxBytes tier.Bytes
	// MaxAge is how long it is kept. 0: a week.
	MaxAge time.Duration
	// Timeout bounds the saving of all slots of an engine, and their restoring. A model
	// that needs the room waits that much longer at most. Under a Manager, its
	// Config.StuckAfter (10 s by default) has to be longer than this and StopTimeout
	// together, or its Close does not wait for what is being saved. 0: 30 s.
	Timeout time.Duration
}

const (
	// conversationsDir holds them, in Options.StateDir: a folder for each signature, in
	// which a slot has a file "SLOT.SIZE.CRC.kept". While the engine writes it, it has a
	// name that begins with the engine's mark and ends in ".part".
	conversationsDir = "conversations"
	keptSuffix       = ".kept"
	partSuffix       = ".part"
	// minRoom is what a save leaves free on the disk.
	minRoom = tier.GiB
	// partLimit is how long a file may be one that is written, by a process that is not
	// known; and a folder may be empty.
	partLimit = time.Hour
	// maxSlots bounds Engine.Slots, maxConversations the folders, and the files of one,
	// that are looked at.
	maxSlots         = 256
	maxConversations = 4096
	// roomPoll is how often it is looked at what a save takes.
	roomPoll = 50 * time.Millisecond
)

// requestWords are what a request to save or restore may contain.
var requestWords = []string{"{slot}", "{file}", "{state}", "{name}"}

// validateConversations calls fault for all that is wrong with Save, Restore and Slots.
func (e *Engine) validateConversations(fault func(field, value, rule string)) {
	if e.Slots < 0 || e.Slots > maxSlots {
		fault("Engine.Slots", strconv.Itoa(e.Slots), fmt.Sprintf("must be 0 to %d", maxSlots))
	}
	slots := [2]bool{}
	for i, r := range []struct {
		field, other string
		is, peer     Request
	}{{"Engine.Save", "Engine.Restore", e.Save, e.Restore}, {"Engine.Restore", "Engine.Save", e.Restore, e.Save}} {
		text := r.is.Path + r.is.Body
		slots[i] = strings.Contains(text, "{slot}")
		switch {
		case r.is.Path == "" && (r.peer.Path != "" || text != ""):
			fault(r.field, r.is.Path, "must have a path, as "+r.other+" is of no use alone")
		case r.is.Path == "":
		case r.is.Path[0] != '/':
			fault(r.field, r.is.Path, "must begin with a slash")
		case !strings.Contains(text, "{file}"):
			fault(r.field, text, "must hold {file}, the name of the file, in its path or body")
		}
		for _, w := range word.FindAllString(text, -1) {
			if !slices.Contains(requestWords, w) {
				fault(r.field, w, "must be one of "+strings.Join(requestWords, ", "))
			}
		}
	}
	if e.Save.Path != "" && e.Restore.Path != "" && slots[0] != slots[1] {
		fault("Engine.Restore", e.Restore.Path+e.Restore.Body, "must hold {slot} if Engine.Save does, and only then")
	}
	if e.Save.Path != "" {
		return
	}
	for _, f := range []struct {
		field string
		texts []string
	}{
		{"Engine.Command", slices.Concat(e.Command, e.Env)}, {"Engine.Pause", e.Pause}, {"Engine.Resume", e.Resume}, {"Engine.StopCommand", e.StopCommand},
		{"Engine.Processes", append([]string{e.Processes.Cgroup, e.Processes.PidFile}, e.Processes.Command...)},
	} {
		if strings.Contains(strings.Join(f.texts, " "), "{state}") {
			fault(f.field, "{state}", "is the folder that Engine.Save saves in, which is not set")
		}
	}
}

// needsState returns an error if the engine is to save and there is no folder for it.
func (o *Options) needsState(e *Engine, model string) error {
	if e.Save.Path == "" || o.StateDir != "" {
		return nil
	}
	return &tier.InvalidError{Model: model, Field: "StateDir", Value: quote(""), Rule: "is needed by Engine.Save: conversations are kept in it"}
}

// slots is how many conversations are saved, each by a request.
func (e *Engine) slots() int {
	if strings.Contains(e.Save.Path+e.Save.Body, "{slot}") {
		return max(e.Slots, 1)
	}
	return 1
}

// about returns the request with its words replaced.
func (r Request) about(slot int, file, folder, model string) Request {
	inQuery := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	inString := func(s string) string {
		b, _ := json.Marshal(s) // a string always marshals
		return string(b[1 : len(b)-1])
	}
	replace := func(text string, escape func(string) string) string {
		return strings.NewReplacer("{slot}", strconv.Itoa(slot), "{file}", file, "{state}", escape(folder), "{name}", escape(model)).Replace(text)
	}
	r.Path, r.Body = replace(r.Path, inQuery), replace(r.Body, inString)
	return r
}

// signature identifies an engine with a model as far as a conversation depends on it:
// what is started, how and in which environment, and the size and time of the program,
// of the weights and of every other file that the command names.
func signature(e *Engine, model *tier.Model, files []weightFile) string {
	h := sha256.New()
	add := func(what ...any) { json.NewEncoder(h).Encode(what) } // plain strings and numbers
	stat := func(path string) {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			add(path, info.Size(), info.ModTime().UnixNano())
		}
	}
	add(engineID(e), model.Name, model.Path, model.Parts, model.Size, model.Labels[QuantisationLabel])
	for _, f := range files {
		stat(f.path)
	}
	argv, env, _ := e.expand(model, 0, "", "") // prepare returns what is wrong with it
	for _, text := range append(argv, env...) {
		_, value, _ := strings.Cut(text, "=")
		for _, path := range []string{text, value} {
			if path != "" && !filepath.IsAbs(path) {
				path = filepath.Join(e.Dir, path)
			}
			stat(path)
		}
	}
	for _, v := range os.Environ() { // flags of llama.cpp
		if strings.HasPrefix(v, "LLAMA_") || strings.HasPrefix(v, "GGML_") {
			add(v)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:16])
}

// talk is what is known of the conversations of a model. Mover.mu guards it, but for
// folder, which is as slot.engine is.
type talk struct {
	folder  string     // that they are saved in; "": they are not
	used    bool       // the engine was asked for since it started
	bytes   tier.Bytes // that were saved or restored last
	at      time.Time
	trouble string // why nothing was
}

// folderOf returns where the conversations of an engine with a model are kept.
func (m *Mover) folderOf(e *Engine, model *tier.Model, files []weightFile) (string, error) {
	if e.Save.Path == "" {
		return "", nil
	}
	dir, err := filepath.Abs(filepath.Join(m.opts.StateDir, conversationsDir))
	return filepath.Join(dir, signature(e, model, files)), err
}

// trouble records why a conversation is not kept, and logs it unless it is what it was
// the last time: some engines refuse each time.
func (m *Mover) trouble(s *slot, what string, err error) {
	text := what + ": " + err.Error()
	m.mu.Lock()
	known := s.talk.trouble == text
	s.talk.trouble = text
	m.mu.Unlock()
	if !known {
		m.log.Warn(what, "model", s.name, "err", err)
	}
}

// saveAndStop has an engine save its conversations, if it was used since it started, and
// stops it. was is what it did before, shutdown what asks it to exit. What fails of the
// saving is logged, and the stop goes on. An engine that writes more than it may goes on
// when its request is cut off, into a file that has no name any more: it is killed.
func (m *Mover) saveAndStop(ctx context.Context, s *slot, c *child, was State, shutdown Request) error {
	if err := m.saveConversations(ctx, s, c, was); errors.Is(err, errTooMuch) {
		return m.kill(c)
	}
	return m.stop(ctx, c, shutdown)
}

var errTooMuch = errors.New("the engine is killed, as it would write on")

func (m *Mover) saveConversations(ctx context.Context, s *slot, c *child, was State) error {
	m.mu.Lock()
	folder, used := s.talk.folder, s.talk.used
	m.mu.Unlock()
	if folder != "" && used && was == Asleep {
		m.trouble(s, "a conversation is not saved", errors.New("the engine sleeps"))
	}
	if folder == "" || !used || was != Running && was != Frozen || c.hasExited() || ctx.Err() != nil {
		return nil
	}
	began := time.Now()
	saving, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), m.opts.Conversations.Timeout, fmt.Errorf("it takes longer than %v", m.opts.Conversations.Timeout))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if cause := context.Cause(ctx); cause != errMoves && !errors.Is(cause, tier.ErrClosed) {
			cancel() // a move to ram waits, as it wants the conversation, and so does Close
		}
	})()
	bytes, err := m.save(saving, s, c, folder, was)
	if err != nil {
		m.trouble(s, "a conversation is not saved", err)
		return err
	}
	m.mu.Lock()
	s.talk.used, s.talk.bytes, s.talk.at, s.talk.trouble = false, bytes, time.Now(), ""
	m.mu.Unlock()
	m.log.Info("a conversation is saved", "model", s.name, "bytes", bytes, "took", time.Since(began))
	return nil
}

// save returns how many bytes were saved.
func (m *Mover) save(ctx context.Context, s *slot, c *child, folder string, was State) (total tier.Bytes, err error) {
	if m.sys.room == nil {
		return 0, errors.New("this system does not tell what room its disks have")
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return 0, err
	}
	// What it has of its own has all of its conversations in it.
	seen, err := m.look(c, false)
	if err != nil {
		return 0, err
	}
	most := seen.usage.own()
	if !seen.maps() {
		most = max(most-seen.weights, 0)
	}
	free, err := m.sys.room(folder)
	if err != nil {
		return 0, err
	}
	if err := m.archive.take(free, most); err != nil {
		return 0, err
	}
	defer m.archive.give(most)
	if was == Frozen {
		if err := c.thaw(); err != nil {
			return 0, err
		}
	}
	life, end := c.while(ctx)
	defer end()
	for slot := range s.engine.slots() {
		part := filepath.Join(folder, fmt.Sprintf("%s-%d%s", c.mark, slot, partSuffix))
		request := s.engine.Save.about(slot, filepath.Base(part), folder, s.name)
		if err := m.watched(life, part, func(ctx context.Context) error { return request.send(ctx, c.url, s.name, 0) }); err != nil {
			os.Remove(part)
			return total, fmt.Errorf("slot %d: %w", slot, err)
		}
		n, err := keepPart(ctx, part, slot, m.opts.Conversations.MaxBytes)
		if err != nil {
			os.Remove(part)
			return total, fmt.Errorf("slot %d: %w", slot, err)
		}
		total = total.Plus(tier.Bytes(n))
	}
	return total, nil
}

// watched has a file written, and ends that if the file becomes too large or the disk too
// full.
func (m *Mover) watched(ctx context.Context, part string, write func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		poll := time.NewTicker(roomPoll)
		defer poll.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-poll.C:
			}
			if info, err := os.Lstat(part); err == nil && tier.Bytes(info.Size()) > m.opts.Conversations.MaxBytes {
				cancel(fmt.Errorf("it takes more than Conversations.MaxBytes, %v: %w", m.opts.Conversations.MaxBytes, errTooMuch))
			}
			if room, err := m.sys.room(filepath.Dir(part)); err == nil && room < minRoom {
				cancel(fmt.Errorf("%v are free on the disk, less than %v: %w", room, minRoom, errTooMuch))
			}
		}
	}()
	err := write(ctx)
	cancel(nil)
	<-ended
	return err
}

// keepPart gives a file that an engine has written its name, in place of what was saved
// of the slot before. From then on it is one to restore.
func keepPart(ctx context.Context, part string, slot int, most tier.Bytes) (size int64, err error) {
	size, sum, err := checksum(ctx, part)
	switch {
	case err != nil:
		return 0, fmt.Errorf("the engine has written no file: %w", err)
	case size == 0:
		return 0, errors.New("the engine has written an empty file")
	case tier.Bytes(size) > most:
		return 0, fmt.Errorf("it takes %v, more than Conversations.MaxBytes", tier.Bytes(size))
	}
	folder := filepath.Dir(part)
	before := keptIn(folder)
	name := fmt.Sprintf("%d.%d.%08x%s", slot, size, sum, keptSuffix)
	if err := os.Rename(part, filepath.Join(folder, name)); err != nil {
		return 0, err
	}
	for _, k := range before {
		if k.slot == slot && k.name != name {
			os.Remove(filepath.Join(folder, k.name))
		}
	}
	return size, nil
}

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// checksum reads a regular file.
func checksum(ctx context.Context, path string) (size int64, sum uint32, err error) {
	if info, err := os.Lstat(path); err != nil {
		return 0, 0, err
	} else if !info.Mode().IsRegular() { // a link would lead out of the folder
		return 0, 0, &regular.Error{Path: path, Kind: regular.Kind(info)}
	}
	f, _, err := regular.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	h := crc32.New(crcTable)
	for {
		n, err := io.CopyN(h, f, 4<<20)
		size += n
		switch {
		case errors.Is(err, io.EOF):
			return size, h.Sum32(), nil
		case err != nil:
			return 0, 0, err
		case ctx.Err() != nil:
			return 0, 0, context.Cause(ctx)
		}
	}
}

// keptFile is a file of a folder that is there to be restored.
type keptFile struct {
	name string
	slot int
	size int64
	sum  uint32
	at   time.Time
}

var keptName = regexp.MustCompile(`^(\d{1,3})\.(\d{1,18})\.([0-9a-f]{8})\.kept$`)

// keptIn returns the files of a folder, the latest first.
func keptIn(folder string) (list []keptFile) {
	entries, err := regular.List(folder, maxConversations)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		part := keptName.FindStringSubmatch(e.Name())
		info, err := e.Info()
		if part == nil || err != nil || !info.Mode().IsRegular() {
			continue
		}
		k := keptFile{name: e.Name(), at: info.ModTime()}
		k.slot, _ = strconv.Atoi(part[1])
		k.size, _ = strconv.ParseInt(part[2], 10, 64)
		sum, _ := strconv.ParseUint(part[3], 16, 32)
		k.sum = uint32(sum)
		list = append(list, k)
	}
	slices.SortStableFunc(list, func(a, b keptFile) int { return b.at.Compare(a.at) })
	return list
}

// errSpoilt is why an engine is started again: it did not survive, or does not answer to,
// what it was to restore. That was removed.
var errSpoilt = errors.New("the engine does not survive the restoring of its conversation")

// restoreConversations has an engine that has just started take back what was saved of
// the same engine with the same model. What is damaged, and what the engine refuses, is
// removed, and the engine goes on without. An error ends the start.
func (m *Mover) restoreConversations(ctx context.Context, s *slot, c *child) error {
	folder := s.talk.folder
	m.mu.Lock()
	s.talk.used = false
	m.mu.Unlock()
	if folder == "" {
		return nil
	}
	kept := keptIn(folder)
	if len(kept) == 0 {
		return nil
	}
	// What was replaced between the look at it and the start is another engine.
	if now, err := m.folderOf(&s.engine, &s.model, s.files); err != nil || now != folder {
		m.trouble(s, "a conversation is not restored", cmp.Or(err, errors.New("engine or model was replaced while the engine started")))
		return nil
	}
	began := time.Now()
	limit, cancel := context.WithTimeoutCause(ctx, m.opts.Conversations.Timeout, fmt.Errorf("all of it takes longer than %v", m.opts.Conversations.Timeout))
	defer cancel()
	life, end := c.while(limit)
	defer end()
	total, done := tier.Bytes(0), map[int]bool{}
	var trouble error
	for _, k := range kept {
		path := filepath.Join(folder, k.name)
		if done[k.slot] || k.slot >= s.engine.slots() || time.Since(k.at) > m.opts.Conversations.MaxAge {
			os.Remove(path)
			continue
		}
		done[k.slot] = true
		size, sum, err := checksum(limit, path)
		if err == nil && (size != k.size || sum != k.sum) {
			err = errors.New("the file is damaged")
		}
		if ctx.Err() == nil && limit.Err() != nil { // its time is over: it stays for the next start
			trouble = fmt.Errorf("slot %d: %w", k.slot, context.Cause(limit))
			break
		}
		sent := err == nil
		if sent {
			err = s.engine.Restore.about(k.slot, k.name, folder, s.name).send(life, c.url, s.name, 0)
		}
		if err == nil {
			total = total.Plus(tier.Bytes(size))
			now := time.Now()
			os.Chtimes(path, now, now) // it is in use: others are dropped before it
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		os.Remove(path)
		trouble = fmt.Errorf("slot %d: %w", k.slot, err)
		if _, refused := errors.AsType[*statusError](err); sent && !refused {
			for _, k := range kept {
				os.Remove(filepath.Join(folder, k.name))
			}
			m.trouble(s, "a conversation is not restored", trouble)
			return errSpoilt
		}
	}
	if trouble != nil {
		m.trouble(s, "a conversation is not restored", trouble)
	}
	if total > 0 {
		m.mu.Lock()
		s.talk.bytes, s.talk.at = total, began
		if trouble == nil {
			s.talk.trouble = ""
		}
		m.mu.Unlock()
		m.log.Info("a conversation is restored", "model", s.name, "bytes", total, "took", time.Since(began))
	}
	return nil
}

// sweep drops what is too much, now that the engine of a slot has stopped.
func (m *Mover) sweep(s *slot) {
	if s.talk.folder != "" {
		m.archive.sweep(m.log)
	}
}

// archive is the folder of all that is kept. Several processes may share it.
type archive struct {
	dir    string // "": nothing is kept
	bounds Conversations
	// writes reports whether the engine of a mark may still write.
	writes func(mark string) bool

	sweeping sync.Mutex // held while the folder is swept; mu is not

	mu    sync.Mutex // guards the rest
	bytes tier.Bytes
	files int
	taken tier.Bytes // of the disk's room, by saves under way
}

// take reserves, of the room that is free on the disk, what a save may need, until it
// gives that back: engines that stop together save at the same time. What others have
// written meanwhile counts twice.
func (a *archive) take(free, most tier.Bytes) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if free < minRoom.Plus(a.taken).Plus(most) {
		return fmt.Errorf("%v are free on the disk, of which %v are left free; it may take %v, and others that are being saved %v", free, minRoom, most, a.taken)
	}
	a.taken += most
	return nil
}

func (a *archive) give(most tier.Bytes) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taken -= most
}

// sweep drops what is too old or too much, the longest unused first, and what an engine
// that has ended was writing.
func (a *archive) sweep(log *slog.Logger) {
	if a.dir == "" {
		return
	}
	a.sweeping.Lock()
	defer a.sweeping.Unlock()
	folders, err := regular.List(a.dir, maxConversations)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			log.Warn("what is kept of conversations cannot be looked at", "err", err)
		}
		return
	}
	type file struct {
		path string
		size tier.Bytes
		at   time.Time
	}
	var all []file
	now := time.Now()
	for _, folder := range folders {
		path := filepath.Join(a.dir, folder.Name())
		if !folder.IsDir() {
			continue
		}
		entries, err := regular.List(path, maxConversations)
		info, err2 := folder.Info()
		if err := errors.Join(err, err2); err == nil && len(entries) == 0 && now.Sub(info.ModTime()) > partLimit {
			os.Remove(path) // unless something was put into it
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil || !info.Mode().IsRegular() {
				continue
			}
			f := file{filepath.Join(path, e.Name()), tier.Bytes(info.Size()), info.ModTime()}
			mark, isPart := strings.CutSuffix(e.Name(), partSuffix)
			mark, _, _ = strings.Cut(mark, "-")
			if now.Sub(f.at) > a.bounds.MaxAge || isPart && (now.Sub(f.at) > partLimit || !a.writes(mark)) {
				os.Remove(f.path)
				continue
			}
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(x, y file) int { return y.at.Compare(x.at) }) // the latest first
	kept, bytes := 0, tier.Bytes(0)
	for kept < len(all) && bytes.Plus(all[kept].size) <= a.bounds.MaxBytes {
		bytes = bytes.Plus(all[kept].size)
		kept++
	}
	for _, f := range all[kept:] {
		log.Info("a conversation is dropped, as more than Conversations.MaxBytes are kept", "file", f.path, "bytes", f.size)
		os.Remove(f.path)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bytes, a.files = bytes, kept
}

// ConversationStatus is what is known of the conversations of an engine that can save
// them. While it runs or is frozen they are in its memory: at most what it has of its
// own, Memory.Anon and Memory.Swap of its ModelStatus.
type ConversationStatus struct {
	// Bytes is how much was saved or restored last, at that time.
	Bytes tier.Bytes `json:"bytes"`
	At    time.Time  `json:"at,omitzero"`
	// Trouble is why the last was not saved or not restored.
	Trouble string `json:"trouble,omitempty"`
}

// ArchiveStatus is what is kept of conversations.
type ArchiveStatus struct {
	Folder string     `json:"folder"` // "": nothing is kept, for want of an Options.StateDir
	Bytes  tier.Bytes `json:"bytes"`  // as of the last save
	Files  int        `json:"files"`
}

func (a *archive) status() ArchiveStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	return ArchiveStatus{a.dir, a.bytes, a.files}
}
