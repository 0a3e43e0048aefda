// Package with is the service of benchmarks/service over modeltier.
package with

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/benchmarks/service/engines"
	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/mapped"
	"github.com/modeltier/modeltier/tier/process"
)

// Service answers POST /KIND/MODEL.
type Service struct {
	manager *modeltier.Manager
	kinds   map[string]string
}

// New returns the service of models in limit bytes of memory. Command, followed by a
// file and a port, is a chat engine.
func New(models []engines.Model, limit int64, maxWait time.Duration, command ...string) (*Service, error) {
	s := &Service{kinds: map[string]string{}}
	made := make(chan struct{}) // closed when s.manager is set
	chat, err := process.New(process.Options{
		Engine: process.Engine{Command: append(command, "{path}", "{port}")},
		Crashed: func(model string, err error) {
			<-made
			if s.manager != nil {
				_ = s.manager.ReportCrash(model, err) // it fails if the Manager is closed
			}
		},
	})
	if err != nil {
		return nil, err
	}
	embed := tier.MoverFrom(tier.Loader[*engines.Copy]{
		Load: func(ctx context.Context, m tier.Model, progress func(tier.Bytes)) (*engines.Copy, error) {
			return engines.LoadCopy(ctx, m.Path, int64(m.Size), func(done int64) { progress(tier.Bytes(done)) })
		},
		Unload: func(_ context.Context, _ tier.Model, e *engines.Copy) error {
			e.Close()
			return nil
		},
	})
	cfg := modeltier.Config{
		Movers:  map[string]tier.Mover{engines.Chat: chat, engines.Embed: embed},
		Limits:  tier.Limits{RAM: tier.Bytes(limit)},
		MaxWait: maxWait,
	}
	for _, m := range models {
		s.kinds[m.Name] = m.Kind
		model := tier.Model{Name: m.Name, Path: m.Path, Size: tier.Bytes(m.Size), Runtime: tier.Bytes(m.Runtime), Capabilities: []string{m.Kind}, Mover: m.Kind}
		if m.Kind == engines.Transcribe {
			model.Mover = "" // mapped files, which is the default
		}
		cfg.Models = append(cfg.Models, model)
	}
	s.manager, err = modeltier.New(cfg)
	close(made)
	if err != nil {
		_ = chat.Close()
		return nil, err
	}
	return s, nil
}

func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	input, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for range 2 { // the second time if the engine has crashed before it answered
		if err = s.answer(w, r, string(input)); !errors.Is(err, engines.ErrNoAnswer) {
			break
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, engines.ErrNoAnswer):
		http.Error(w, err.Error(), http.StatusBadGateway)
	default:
		panic(http.ErrAbortHandler) // the answer has begun
	}
}

func (s *Service) answer(w http.ResponseWriter, r *http.Request, input string) error {
	name := r.PathValue("model")
	lease, err := s.manager.Acquire(r.Context(), modeltier.Request{Model: name})
	if err != nil {
		status, after := modeltier.HTTPStatus(err)
		if after > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
		}
		http.Error(w, err.Error(), status)
		return nil
	}
	defer lease.Release()
	err = engines.ErrNoAnswer
	switch engine := lease.Instance().(type) {
	case *mapped.Weights:
		return engines.Answer(w, s.kinds[name], engine, engine.Size(), input)
	case *engines.Copy:
		return engines.Answer(w, s.kinds[name], engine, engine.Size(), input)
	case *process.Instance:
		if url, ok := engine.URL(); ok {
			err = engines.Relay(w, r, url, []byte(input))
		}
	}
	if errors.Is(err, engines.ErrNoAnswer) {
		select { // until the Manager knows it, it would lease the same again
		case <-lease.Done():
		case <-r.Context().Done():
		case <-time.After(crashKnown):
		}
	}
	return err
}

// crashKnown bounds how long the Manager takes to be told of a crash.
const crashKnown = 5 * time.Second

// Charged is the most memory that was ever promised.
func (s *Service) Charged() int64 { return int64(s.manager.Status().RAM.Peak) }

// Close lets what runs end, and stops all engines.
func (s *Service) Close(ctx context.Context) error { return s.manager.Shutdown(ctx) }
