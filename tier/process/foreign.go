package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// foreignSpec is what is needed to reach an engine that is not our child. A record of it
// ends the engine after we were killed.
type foreignSpec struct {
	Pause     []string  `json:"-"`
	Resume    []string  `json:"resume,omitempty"`
	Stop      []string  `json:"stop,omitempty"`
	Processes Processes `json:"processes"`
	Dir       string    `json:"dir,omitempty"`
	Port      int       `json:"port"`
	// StopLimit is how long Stop may take; 0: commandLimit.
	StopLimit time.Duration `json:"stop_limit_ns"`
	// Since is when the client was about to be started, in ticks after the boot that Boot
	// identifies.
	Since uint64 `json:"since"`
	Boot  string `json:"boot"`
}

const (
	// commandLimit bounds Engine.Pause, Resume and Processes.Command.
	commandLimit = 5 * time.Second
	// appearLimit is how long the processes of an engine may be missing after its client
	// has exited with status 0, or its health page says ready.
	appearLimit = 10 * time.Second
	// stopTries is how often a StopCommand is tried that fails for an engine that was never
	// seen: its client may have been killed before what it asked for was begun.
	stopTries = 3
	stopPause = 250 * time.Millisecond
)

// foreignLimits is how long the commands of an engine may take, that which stops it, and
// how long its processes may be missing.
type foreignLimits struct{ command, stop, appear time.Duration }

func (e *Engine) isForeign() bool {
	return len(e.Pause) > 0 || len(e.Resume) > 0 || len(e.StopCommand) > 0 || !e.Processes.isZero()
}

func (e *Engine) validateForeign(check func(field, text string), fault func(field, value, rule string)) {
	command := func(field string, argv []string) {
		if len(argv) > 0 && argv[0] == "" {
			fault(field, strings.Join(argv, " "), "must name a program")
		}
		for _, arg := range argv {
			check(field, arg)
		}
	}
	command("Engine.Pause", e.Pause)
	command("Engine.Resume", e.Resume)
	command("Engine.StopCommand", e.StopCommand)
	command("Engine.Processes.Command", e.Processes.Command)
	if (len(e.Pause) > 0) != (len(e.Resume) > 0) {
		fault("Engine.Pause", strings.Join(e.Pause, " "), "must be set together with Engine.Resume")
	}
	set := 0
	for field, path := range map[string]string{"Cgroup": e.Processes.Cgroup, "PidFile": e.Processes.PidFile} {
		check("Engine.Processes."+field, path)
		if path == "" {
			continue
		}
		if set++; !filepath.IsAbs(path) {
			fault("Engine.Processes."+field, path, "must be an absolute path")
		}
	}
	if len(e.Processes.Command) > 0 {
		set++
	}
	if set > 1 {
		fault("Engine.Processes", fmt.Sprintf("%+v", e.Processes), "must have one of Cgroup, PidFile and Command")
	}
}

// foreignSpec returns the commands and paths for one start.
func (e *Engine) foreignSpec(x expansion) (spec foreignSpec, err error) {
	spec.Dir = e.Dir
	var errs []error
	for _, c := range []struct {
		to   *[]string
		from []string
	}{{&spec.Pause, e.Pause}, {&spec.Resume, e.Resume}, {&spec.Stop, e.StopCommand}, {&spec.Processes.Command, e.Processes.Command}} {
		*c.to, err = x.command(c.from)
		errs = append(errs, err)
	}
	for _, c := range []struct {
		field, from string
		to          *string
	}{{"Cgroup", e.Processes.Cgroup, &spec.Processes.Cgroup}, {"PidFile", e.Processes.PidFile, &spec.Processes.PidFile}} {
		*c.to = x.Replace(c.from)
		if strings.Count(*c.to, "/") != strings.Count(c.from, "/") || filepath.Clean(*c.to) != filepath.Clean(c.from) && strings.Contains("/"+*c.to+"/", "/../") {
			errs = append(errs, &tier.InvalidError{
				Model: x.model, Field: "Engine.Processes." + c.field, Value: quote(*c.to),
				Rule: "must not lead to another folder because of the model's name: use {mark}",
			})
		}
	}
	return spec, errors.Join(errs...)
}

// foreign is a running engine that is not our child: the child is its client.
type foreign struct {
	sys    *system
	log    *slog.Logger
	model  string
	spec   foreignSpec
	limits foreignLimits
	client int // its process
	// run runs a short command of the engine, and returns what that prints.
	run func(ctx context.Context, argv []string, limit time.Duration) (stdout []byte, err error)
	// keep records what was seen of the processes, for what ends them after us.
	keep func(all []pinned)

	leader  chan struct{} // closed when the client has exited
	ending  chan struct{} // closed by end, when the engine is killed
	end     func()        // idempotent
	stopped chan struct{} // closed when the StopCommand has ended
	stop    func()        // begins it, the first time
	stopErr error         // how it ended

	mu     sync.Mutex // guards the rest
	seen   bool       // its processes were seen
	roots  []pinned   // those that Processes has named
	known  []pinned   // these, and what they have started, as of the last look
	err    error      // why they cannot be seen
	paused bool       // Pause was begun, and Resume has not ended well since
	alone  string     // how its client has ended while the engine runs on
	begun  bool       // the StopCommand was
	cut    bool       // its client was killed by us
}

// newForeign returns the engine of a client that is about to start and saves
// conversations in a folder, nil for an engine that is our child.
func (m *Mover) newForeign(c *child, engine *Engine, model *tier.Model, folder string) (*foreign, error) {
	if !engine.isForeign() {
		return nil, nil
	}
	x, err := engine.expansion(model, c.port, c.mark, folder)
	if err != nil {
		return nil, err
	}
	spec, err := engine.foreignSpec(x)
	if err != nil {
		return nil, err
	}
	spec.Port, spec.StopLimit = c.port, m.foreign.stop
	if m.sys.processes != nil {
		if spec.Boot, spec.Since, err = m.sys.processes.now(); err != nil {
			return nil, err
		}
	} else if !spec.Processes.isZero() {
		return nil, errors.New("Engine.Processes: this system does not tell of processes that are not our children")
	}
	f := &foreign{sys: m.sys, log: m.log, model: c.model, spec: spec, limits: m.foreign}
	f.init()
	f.run = func(ctx context.Context, argv []string, limit time.Duration) ([]byte, error) {
		var in cgroup // so that what it starts ends with the client
		if c.cgroup != nil {
			in = c.cgroup
		}
		return runCommand(ctx, m.sys, argv, spec.Dir, append(c.environ(), markName+"="+c.mark), in, limit)
	}
	kept := 0
	var keeping sync.Mutex // guards kept, and the order
	f.keep = func(all []pinned) {
		keeping.Lock()
		defer keeping.Unlock()
		if kept++; kept > maxKept {
			return
		}
		if c.reaper != nil {
			c.reaper.tell(all)
		}
		if c.forget == nil {
			return
		}
		if err := m.sys.remember(m.opts.StateDir, c.mark, all); err != nil {
			m.log.Warn("the processes of an engine cannot be recorded", "model", c.model, "err", err)
		}
	}
	return f, nil
}

func (f *foreign) init() {
	f.leader, f.ending, f.stopped = make(chan struct{}), make(chan struct{}), make(chan struct{})
	f.end = sync.OnceFunc(func() { close(f.ending) })
	f.stop = sync.OnceFunc(func() {
		f.mu.Lock()
		f.begun = true
		f.mu.Unlock()
		go func() {
			defer close(f.stopped)
			f.stopErr = f.runStop()
		}()
	})
}

// maxKept is how often it is recorded which processes an engine has.
const maxKept = 64

// adopt takes processes that were named for the engine's.
func (f *foreign) adopt(roots []pinned) {
	f.mu.Lock()
	f.seen, f.roots, f.err = true, roots, nil
	f.mu.Unlock()
	f.pids()
}

// pids returns the engine's living processes.
func (f *foreign) pids() []int {
	if f.sys.processes == nil {
		return nil
	}
	f.mu.Lock()
	roots, known, seen := f.roots, f.known, f.seen
	f.mu.Unlock()
	if !seen {
		return nil
	}
	all := f.alive(roots)
	var more []pinned
	if f.spec.Processes.Cgroup != "" {
		more, _ = f.list(context.Background())
	} else if pids, err := f.sys.processes.offspring(pidsOf(f.alive(known))); err == nil {
		more, _ = f.pinnedOf(pids)
	}
	grown := false
	for _, one := range slices.Concat(f.alive(known), more) {
		if !slices.Contains(all, one) {
			all = append(all, one)
		}
	}
	for _, one := range all {
		grown = grown || !slices.Contains(known, one)
	}
	f.mu.Lock()
	f.known = all
	f.mu.Unlock()
	if grown {
		f.keep(all)
	}
	return pidsOf(all)
}

// last returns the processes as of the last look, and how its client has ended.
func (f *foreign) last() (pids []int, client string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return pidsOf(f.known), f.alone
}

// awaitEnd returns when the engine has ended or is to be killed: its processes are gone
// or, if nothing is known of them, its client is.
func (f *foreign) awaitEnd() {
	if f.spec.Processes.isZero() {
		select {
		case <-f.leader:
		case <-f.ending:
		}
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-f.ending:
			cancel()
		case <-ctx.Done():
		}
	}()
	if !f.awaitBegin(ctx) {
		return
	}
	go f.noticeClient(ctx)
	for ctx.Err() == nil {
		f.mu.Lock()
		roots := f.roots
		f.mu.Unlock()
		if roots = f.alive(roots); len(roots) > 0 {
			f.sys.processes.awaitEnd(ctx, roots[0])
			continue
		}
		if f.spec.Processes.Cgroup == "" {
			return
		}
		if roots, _ = f.list(ctx); len(roots) == 0 {
			return
		}
		f.adopt(roots)
	}
}

// awaitBegin returns true once processes are seen; and false if its client has failed
// without any, or none appear in time, or ctx ends.
func (f *foreign) awaitBegin(ctx context.Context) bool {
	var late <-chan time.Time
	leader := f.leader
	for wait := 10 * time.Millisecond; ; wait = min(wait*3/2, 500*time.Millisecond) {
		exited := leader == nil || closed(leader) // before the look, which sees what it started
		roots, err := f.list(ctx)
		if len(roots) > 0 {
			f.adopt(roots)
			return true
		}
		f.mu.Lock()
		f.err = err
		f.mu.Unlock()
		if exited && leader != nil {
			if leader = nil; !f.sys.processes.endedWell(f.client) {
				return false
			}
			late = time.After(f.limits.appear)
		}
		select {
		case <-time.After(wait):
		case <-leader:
		case <-late:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// noticeClient tells that the client has exited while the engine runs on.
func (f *foreign) noticeClient(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-f.leader:
	}
	how, level := "exited", slog.LevelInfo
	if !f.sys.processes.endedWell(f.client) {
		how, level = "failed", slog.LevelWarn
	}
	// If the engine has ended, its client just follows it.
	f.mu.Lock()
	roots := f.roots
	f.mu.Unlock()
	if len(f.alive(roots)) == 0 {
		return
	}
	f.mu.Lock()
	f.alone = how
	f.mu.Unlock()
	f.log.Log(ctx, level, "the client of an engine has ended, the engine runs on", "model", f.model, "client", f.client, "how", how)
}

// awaitSeen returns an error if the processes of an engine that says that it is ready
// are not seen in time.
func (f *foreign) awaitSeen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, f.limits.appear)
	defer cancel()
	for wait := (backoff{}); ; {
		f.mu.Lock()
		seen, err := f.seen, f.err
		f.mu.Unlock()
		if seen || f.spec.Processes.isZero() {
			return nil
		}
		if !wait.sleep(ctx.Done()) {
			if err == nil {
				err = errors.New("Engine.Processes names none")
			}
			return err
		}
	}
}

// freeze freezes the engine; see child.freeze.
func (f *foreign) freeze(ctx context.Context) error {
	if len(f.spec.Pause) == 0 {
		return f.suspend(ctx)
	}
	f.mu.Lock()
	f.paused = true
	f.mu.Unlock()
	if _, err := f.run(ctx, f.spec.Pause, f.limits.command); err != nil {
		return fmt.Errorf("Engine.Pause: %w", err)
	}
	if f.awaitFreezing(ctx, halted) == runs {
		return fmt.Errorf("Engine.Pause %s ended well, and the processes %v run on", quote(strings.Join(f.spec.Pause, " ")), f.pids())
	}
	return nil
}

// awaitFreezing waits until that is seen, or anything that will not change, and returns
// what is seen in the end.
func (f *foreign) awaitFreezing(ctx context.Context, want freezing) freezing {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for wait := (backoff{}); ; {
		seen := f.freezing()
		if seen == want || seen == unknowable || !wait.sleep(ctx.Done()) {
			return seen
		}
	}
}

func (f *foreign) freezing() freezing {
	pids := f.pids()
	if len(pids) == 0 {
		return unknowable
	}
	return f.sys.processes.frozen(pids)
}

func (f *foreign) suspend(ctx context.Context) error {
	for wait := (backoff{}); ; {
		pids := f.pids()
		if len(pids) == 0 {
			return errors.New("it cannot be frozen, as its processes are not known: set Engine.Processes, or Engine.Pause and Engine.Resume")
		}
		if err := f.sys.suspend(0, pids); err != nil {
			return err
		}
		if f.sys.suspended(pids) {
			return nil
		}
		if !wait.sleep(ctx.Done()) {
			return context.Cause(ctx)
		}
	}
}

// thaw undoes freeze, also one that has failed: then Resume may fail as well, if the
// processes are not seen to be frozen.
func (f *foreign) thaw() error {
	if len(f.spec.Pause) == 0 {
		return f.signal(f.sys.resume)
	}
	f.mu.Lock()
	paused := f.paused
	f.mu.Unlock()
	if !paused {
		return nil
	}
	_, err := f.run(context.Background(), f.spec.Resume, f.limits.command)
	if seen := f.awaitFreezing(context.Background(), runs); seen == halted {
		err = fmt.Errorf("Engine.Resume %s left its processes frozen: %w", quote(strings.Join(f.spec.Resume, " ")), errors.Join(err, errFrozen))
	} else if seen == runs {
		err = nil
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.paused = false
	f.mu.Unlock()
	return nil
}

var errFrozen = errors.New("frozen")

// signal sends to the engine's processes, not to its client.
func (f *foreign) signal(send func(pid int, others []int) error) error {
	if pids := f.pids(); send != nil && len(pids) > 0 {
		return send(0, pids)
	}
	return nil
}

// kill kills the engine's processes where that is permitted. Its client, and what
// StopCommand is for, follow; see finish.
func (f *foreign) kill() {
	f.signal(f.sys.kill)
	f.end()
}

// runStop runs the StopCommand; stop does that once.
func (f *foreign) runStop() error {
	if len(f.spec.Stop) == 0 {
		return nil
	}
	var err error
	for try := 1; ; try++ {
		_, err = f.run(context.Background(), f.spec.Stop, f.limits.stop)
		f.mu.Lock()
		again := !f.seen && try < stopTries
		f.mu.Unlock()
		if err == nil || !again {
			break
		}
		time.Sleep(stopPause)
	}
	if err != nil {
		return fmt.Errorf("Engine.StopCommand: %w", err)
	}
	return nil
}

// resume thaws an engine that is about to be stopped.
func (f *foreign) resume() {
	if err := f.thaw(); err != nil {
		f.log.Warn("an engine is stopped that does not resume", "model", f.model, "err", err)
	}
}

// runStopFor runs the StopCommand, and returns when that has ended or ctx has. It reports
// whether the engine may still be about to end.
func (f *foreign) runStopFor(ctx context.Context) bool {
	f.stop()
	select {
	case <-f.stopped:
		return f.stopErr == nil
	case <-ctx.Done():
		return false
	}
}

// finish ends what is left of an engine that has ended or is to be killed: it runs the
// StopCommand, if that has not been run, and kills the processes until none is left or
// givenUp is closed.
func (f *foreign) finish(givenUp <-chan struct{}) {
	if f.end(); !f.spec.Processes.isZero() && f.sys.processes != nil {
		// What its client has begun may not have been seen yet.
		ctx, cancel := context.WithTimeout(context.Background(), f.limits.command)
		if roots, _ := f.list(ctx); len(roots) > 0 {
			f.adopt(roots)
		}
		cancel()
	}
	f.thaw()
	f.stop()
	<-f.stopped
	if f.stopErr != nil {
		f.log.Warn("the StopCommand of an engine failed", "model", f.model, "left", f.pids(), "err", f.stopErr)
	}
	for wait := (backoff{}); ; {
		f.signal(f.sys.kill)
		if !f.lingers() || !wait.sleep(givenUp) {
			return
		}
	}
}

// lingers reports whether something of the engine is left, after its StopCommand. What
// that has failed to stop and what was never seen is told by its port.
func (f *foreign) lingers() bool {
	f.mu.Lock()
	seen := f.seen
	f.mu.Unlock()
	return len(f.pids()) > 0 || !seen && f.stopErr != nil && portTaken(f.spec.Port)
}

// exitError returns how the engine ended, given how its client did.
func (f *foreign) exitError(client error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.spec.Processes.isZero():
		return client
	case f.seen && f.cut:
		return errEnded
	case f.seen:
		return fmt.Errorf("%w; its client: %w", errEnded, client)
	case f.err != nil:
		return fmt.Errorf("%w; its client: %w", f.err, client)
	}
	return fmt.Errorf("Engine.Processes names none; its client: %w", client)
}

var errEnded = errors.New("its processes have ended")

// endOrphan ends an engine whose recorder was killed, and returns the processes that it
// had, and why it is not known to be gone.
func endOrphan(ctx context.Context, sys *system, id *identity) (ended []int, err error) {
	f := &foreign{sys: sys, log: slog.New(slog.DiscardHandler), model: id.Model, spec: *id.Foreign, limits: foreignLimits{commandLimit, cmp.Or(id.Foreign.StopLimit, commandLimit), appearLimit}, paused: true}
	f.keep = func([]pinned) {}
	f.run = func(_ context.Context, argv []string, limit time.Duration) ([]byte, error) {
		return runCommand(ctx, sys, argv, f.spec.Dir, append(os.Environ(), markName+"="+id.Mark), nil, limit)
	}
	f.init()
	boot, _, err := sys.processes.now()
	if err != nil {
		return nil, err
	}
	if boot != f.spec.Boot { // none of its processes is left, but a daemon may have started it again
		return nil, f.runStop()
	}
	if len(id.seen) > 0 {
		f.adopt(id.seen)
	}
	if f.spec.Pause = f.spec.Resume; !f.spec.Processes.isZero() {
		if roots, _ := f.list(ctx); len(roots) > 0 {
			f.adopt(roots)
		}
	}
	ended = f.pids()
	f.finish(ctx.Done())
	if f.lingers() {
		err = errors.Join(&tier.StuckError{Model: id.Model, What: "The orphaned engine", After: killLimit}, f.stopErr)
	}
	return ended, err
}
