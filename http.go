package modeltier

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/internal/wire"
	"github.com/modeltier/modeltier/tier"
)

// HandleRequest answers one request of the JSON contract: one object in, one
// object out. A request for a model makes it ready before it answers; ctx bounds
// the wait. Every answer is valid JSON, whatever the request; if something is wrong,
// it has the status "error", a code and suggestions.
func (m *Manager) HandleRequest(ctx context.Context, request []byte) (answer []byte) {
	defer func() {
		if v := recover(); v != nil {
			m.log.Error("a request panicked", "value", v, "stack", string(debug.Stack()))
			answer = wire.Error(&tier.PanicError{Part: "request", Value: v})
		}
	}()
	op, err := wire.Parse(request, m.cfg.MaxBody)
	if err != nil {
		m.refused(&Request{}, "", err)
		return wire.Error(err)
	}
	if sel, ok := op.(*wire.Select); ok {
		return m.answerSelect(ctx, &sel.Request)
	}
	answer, err = m.carryOut(ctx, op)
	if err != nil {
		return wire.Error(err)
	}
	return answer
}

func (m *Manager) answerSelect(ctx context.Context, req *Request) []byte {
	began := time.Now()
	var waited wait
	lease, choice, err := m.acquire(ctx, req, &waited)
	took := max(time.Since(began)-waited.took, 0)
	if err != nil {
		return wire.NotSelected(err, &choice, took, m.view())
	}
	defer lease.Release()
	return wire.Selected(&wire.Served{
		Model: lease.Model(), Tier: lease.Tier(), Kept: lease.Kept(), Moved: lease.Moved(), Waited: lease.Waited(),
	}, &choice, took)
}

// carryOut does what any request but a selection asks for.
func (m *Manager) carryOut(ctx context.Context, op any) ([]byte, error) {
	switch op := op.(type) {
	case *wire.HotLoad:
		if err := checkMover("engine", op.Name, op.Mover, *m.movers.Load()); err != nil {
			return nil, err
		}
		if err := m.resolve(&op.Model); err != nil {
			return nil, err
		}
		job, err := m.HotLoad(ctx, op.Model)
		if err != nil {
			return nil, err
		}
		return wire.HotLoadStarted(wireJob(job)), nil
	case *wire.MoveTier:
		return moveStarted(m.MoveTier(ctx, op.Model, op.To))
	case *wire.Unload:
		return moveStarted(m.unload(ctx, op.Model, op.WhenIdle))
	case *wire.Remove:
		return moveStarted(m.Remove(ctx, op.Model))
	case *wire.Pin:
		op.Model = m.ownName(op.Model)
		return wire.PinSet(op), m.SetPinned(ctx, op.Model, op.Pinned)
	case *wire.Alias:
		op.Model = m.ownName(op.Model)
		return wire.AliasSet(op), m.SetAlias(ctx, op.Name, op.Model)
	case *wire.Rollback:
		version, err := m.Rollback(ctx, op.Model, op.Version)
		return wire.RolledBack(op.Model, version), err
	case *wire.JobRef:
		job, ok := m.Job(op.ID)
		if !ok || op.Load != (job.Kind() == hotload.KindLoad) {
			return nil, &tier.NotFoundError{What: "job", Name: op.ID}
		}
		return wire.JobStatus(op, wireJob(job)), nil
	case *wire.UpdateLimits:
		old, now, err := m.UpdateLimits(ctx, op.Limits)
		return wire.LimitsUpdated(old, now), err
	case *wire.Reserve:
		r, err := m.reserve(ctx, op.Bytes, op.Reason, op.For)
		if err != nil {
			return nil, err
		}
		return wire.Reserved(r.ID(), r.Bytes(), op.For), nil
	case *wire.Release:
		return wire.Released(op.ID), m.release(ctx, op.ID)
	case *wire.Hint:
		op.Model = m.ownName(op.Model)
		return wire.HintTaken(op.Model), m.Hint(op.Model, op.Probability, op.Within)
	case wire.Query:
		switch op {
		case wire.TierStatus:
			snap := m.snap.Load()
			reserved := make([]wire.Reservation, len(snap.reserved))
			for i, r := range snap.reserved {
				reserved[i] = wire.Reservation{ID: r.ID, Reason: r.Reason, Bytes: r.Bytes, Since: r.Since, Until: r.Until}
			}
			return wire.Tiers(&snap.view, snap.limits, reserved), nil
		case wire.ListModels:
			return wire.Models(m.view(), m.jobs.Counts(hotload.KindLoad).Running), nil
		case wire.AutoOptimize:
			o, err := m.Optimize(ctx)
			return wire.Optimized(o.Steps), err
		}
	}
	panic("an operation that is not known")
}

// ownName returns the name of the model that a name stands for; a name that is not known
// is left to the error of what it is for.
func (m *Manager) ownName(name string) string {
	lib := m.view().Library
	if i, ok := lib.Find(name); ok {
		return lib.At(i).Name
	}
	return name
}

func moveStarted(job *Job, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return wire.MoveStarted(wireJob(job)), nil
}

// resolve takes the paths of a model from the model folder, if there is one.
func (m *Manager) resolve(model *tier.Model) error {
	if m.cfg.ModelDir == "" || model.Path == "" {
		return nil
	}
	within := func(path string) (string, error) { return hotload.Resolve(m.cfg.ModelDir, path, m.cfg.Follow...) }
	for _, path := range append([]*string{&model.Path}, pointers(model.Parts)...) {
		resolved, err := within(*path)
		if err != nil {
			return err
		}
		*path = resolved
	}
	said := model.Digests
	model.Digests = make(map[string]tier.Digest, len(said))
	for path, d := range said {
		resolved, err := within(path)
		if err != nil {
			return err
		}
		model.Digests[resolved] = d
	}
	return nil
}

func pointers(list []string) (out []*string) {
	for i := range list {
		out = append(out, &list[i])
	}
	return out
}

func wireJob(j *Job) *wire.Job {
	state := j.State()
	return &wire.Job{
		ID: j.ID(), Model: j.Model(), Kind: j.Kind().String(), From: j.From(), To: j.To(),
		Running: state == hotload.Running, Err: j.Err(), Progress: j.Progress().Fraction,
		Elapsed: j.Elapsed(), Estimate: j.Estimate(),
	}
}

// view is the Manager's state as of its last change.
func (m *Manager) view() *tier.View { return &m.snap.Load().view }

// bodyTime is how long a client may take to send its request.
const bodyTime = 10 * time.Second

// Handler returns an http.Handler with the contract and little else:
//
//	POST /           one request of the JSON contract, answered with 200 whatever
//	                 its status says, as its clients expect
//	GET  /v1/models  the library, as an OpenAI-style list; each model counts as
//	                 created when the Manager was
//	GET  /healthz    200 until the Manager has been closed, then 503
//	GET  /readyz     200 while it takes requests, else 503
//	GET  /status     Status
//	POST /v1/reservations       room for an outsider: what "reserve" has in the contract;
//	                            with "hold": true it ends with the connection, which
//	                            stays open after the answer's line; empty lines follow,
//	                            which the client has to receive
//	DELETE /v1/reservations/ID  ends it
//
// A reservation is refused with the status code of HTTPStatus.
//
// If something is wrong with the HTTP request itself, the answer has a status code
// of its own, with the contract's error object as its body. A body is limited to
// Config.MaxBody, and has to arrive within 10 s.
func (m *Manager) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{$}", m.serveContract)
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusOK, wire.OpenAIModels(m.view(), m.start))
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-m.loopDone:
			writeError(w, http.StatusServiceUnavailable, tier.ErrClosed)
		default:
			write(w, http.StatusOK, []byte(`{"status":"ok"}`))
		}
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if m.closing.Load() {
			writeError(w, http.StatusServiceUnavailable, tier.ErrClosed)
			return
		}
		write(w, http.StatusOK, []byte(`{"status":"ready"}`))
	})
	mux.HandleFunc("POST /v1/reservations", m.serveReserve)
	mux.HandleFunc("DELETE /v1/reservations/{id}", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		if err := m.release(r.Context(), id); err != nil {
			writeRefusal(w, err)
			return
		}
		write(w, http.StatusOK, wire.Released(id))
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		out, err := wire.Encode(m.Status())
		if err != nil { // what a part says of itself does not marshal
			writeError(w, http.StatusInternalServerError, err)
			return
		}
		write(w, http.StatusOK, out)
	})
	for path, allow := range map[string]string{
		"/{$}": "POST", "/v1/models": "GET, HEAD", "/healthz": "GET, HEAD", "/readyz": "GET, HEAD", "/status": "GET, HEAD",
		"/v1/reservations": "POST", "/v1/reservations/{id}": "DELETE",
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", allow)
			help := "Use " + allow + " here."
			if r.URL.Path == "/" {
				help = "POST one JSON object here."
			}
			writeError(w, http.StatusMethodNotAllowed, wire.Invalid("Method "+r.Method+" is not for this path", help))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, wire.Invalid("There is nothing at this path", "POST / takes the JSON contract; GET /v1/models, /status, /healthz and /readyz and POST /v1/reservations answer too."))
	})
	return mux
}

func (m *Manager) serveContract(w http.ResponseWriter, r *http.Request) {
	if body, ok := m.readBody(w, r); ok {
		write(w, http.StatusOK, m.HandleRequest(r.Context(), body))
	}
}

// readBody returns the body of a request, or answers what is wrong with it.
func (m *Manager) readBody(w http.ResponseWriter, r *http.Request) (body []byte, ok bool) {
	// Not every ResponseWriter has a deadline to set; then the server's own counts.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, m.cfg.MaxBody))
	if _, long := errors.AsType[*http.MaxBytesError](err); long {
		writeError(w, http.StatusRequestEntityTooLarge, wire.TooLarge(m.cfg.MaxBody))
		return nil, false
	}
	if err != nil {
		writeError(w, http.StatusBadRequest, wire.Invalid("The body did not come whole: "+err.Error(), "Send the whole request within 10 s."))
		return nil, false
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	return body, true
}

// answerTime is how long a client may take to receive what is written to it at once,
// heldCheck how often it is looked whether one that holds a reservation is there still.
const (
	answerTime = 10 * time.Second
	heldCheck  = 15 * time.Second
)

// serveReserve gives an outsider room. A client that is not told of it does not have it.
// One that holds it has it until it leaves: the server may notice that by itself, but not
// if the client has sent more than its request, or has vanished.
func (m *Manager) serveReserve(w http.ResponseWriter, r *http.Request) {
	body, ok := m.readBody(w, r)
	if !ok {
		return
	}
	op, err := wire.ParseReservation(body, m.cfg.MaxBody)
	if err != nil {
		writeRefusal(w, err)
		return
	}
	if op.Hold && !flushes(w) {
		writeError(w, http.StatusNotImplemented, wire.Invalid("A reservation cannot be held here: what is written is not sent before the answer ends", `Name a time instead of "hold": "for_s".`))
		return
	}
	control := http.NewResponseController(w)
	deadline := func(t time.Time) { _ = control.SetWriteDeadline(t) } // not every ResponseWriter has one
	deadline(time.Time{})                                             // HTTP/2 ends a request at the server's, also while room is made
	defer func() { deadline(time.Now().Add(answerTime)) }()           // for the answer's end
	room, err := m.reserve(r.Context(), op.Bytes, op.Reason, op.For)
	if err != nil {
		writeRefusal(w, err)
		return
	}
	tell := func(write func()) error {
		deadline(time.Now().Add(answerTime))
		write()
		err := control.Flush()
		deadline(time.Time{})
		return cmp.Or(err, r.Context().Err())
	}
	err = tell(func() { write(w, http.StatusOK, wire.Reserved(room.ID(), room.Bytes(), op.For)) })
	if !op.Hold {
		if err != nil && !errors.Is(err, http.ErrNotSupported) {
			room.Release()
		}
		return
	}
	defer room.Release()
	check := time.NewTicker(heldCheck)
	defer check.Stop()
	for err == nil {
		select {
		case <-r.Context().Done():
			return
		case <-room.Done():
			return
		case <-check.C:
			err = tell(func() { io.WriteString(w, "\n") })
		}
	}
}

// flushes reports whether what is written can be sent at once, as far as that shows, by the
// rules of http.ResponseController.
func flushes(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case http.Flusher, interface{ FlushError() error }:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}

// writeRefusal answers with an error that has a status code.
func writeRefusal(w http.ResponseWriter, err error) {
	status, after := HTTPStatus(err)
	if after > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64(after/time.Second), 10))
	}
	writeError(w, status, err)
}

func writeError(w http.ResponseWriter, status int, err error) { write(w, status, wire.Error(err)) }

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
