package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/modeltier/modeltier/tier"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// pollEvery is how often it is asked how far something is.
const pollEvery = 250 * time.Millisecond

func (o *options) load() spec {
	var timeout time.Duration
	return spec{
		use: "load MODEL", also: []string{"run", "start"}, short: "Make a model ready, and wait until it is", least: 1, most: 1, complete: o.completeModels(1),
		long: `Asks for a model as a client's request does, and returns when it is ready: it waits its
turn, idle models give way, and it may be served from swap if it does not fit in ram. It
then stays as long as the server keeps any idle model.

Ctrl-C, or the end of --timeout, withdraws the request. A load that has begun goes on, but
gives way as soon as a request for another model needs the room.`,
		flags: func(fs *pflag.FlagSet) {
			fs.DurationVar(&timeout, "timeout", 0, "wait this `TIME` at most, such as 90s (default as long as the server lets a request wait)")
		},
		run: func(ctx context.Context, s *session, args []string) error {
			if timeout < 0 {
				return usagef("--timeout must not be negative")
			} else if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(ctx, timeout, failure(exitFailed, "deadline_exceeded",
					fmt.Sprintf("%s is not ready after %v, and the request is withdrawn", args[0], timeout),
					"Allow it longer; modeltier ps tells what it waits for."))
				defer cancel()
			}
			return s.load(ctx, args[0])
		},
	}
}

// load asks for a model, and tells how far it is while the answer takes its time.
func (s *session) load(ctx context.Context, model string) error {
	p := s.progress()
	polling, stop := context.WithCancel(ctx)
	defer stop()
	var asking sync.WaitGroup
	asking.Go(func() {
		poll := time.NewTicker(pollEvery)
		defer poll.Stop()
		for {
			select {
			case <-polling.Done():
				return
			case <-poll.C:
				p.tell(model, s.loading(polling, model))
			}
		}
	})
	answer, err := s.receive(ctx, http.MethodPost, "/", map[string]any{"model": model})
	stop()
	asking.Wait()
	p.end()
	return s.loaded(model, answer, err)
}

func (s *session) loaded(model string, answer json.RawMessage, err error) error {
	if i, ok := errors.AsType[interrupted](err); ok {
		return fmt.Errorf("%w: the request for %s is withdrawn; a load that has begun goes on as long as no other model needs the room", i, model)
	}
	if err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.out, answer)
	}
	var a struct {
		Model string
		Tier  string
		Moved bool    `json:"swap_executed"`
		Took  float64 `json:"swap_time"`
		Kept  float64 `json:"kept_gb"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return err
	}
	words := "is ready"
	switch a.Tier {
	case "ram":
		words += " in ram"
	case "swap":
		kept, _ := tier.FromGB(a.Kept)
		words += fmt.Sprintf(", served from swap with %v of it in memory", kept)
	}
	if a.Moved {
		words += " after " + seconds(a.Took)
	}
	fmt.Fprintln(s.out, clean(a.Model), words)
	return nil
}

// job is what the contract tells of one that moves a model.
type job struct {
	ID        string  `json:"job_id"`
	Model     string  `json:"model_name"`
	Operation string  `json:"operation"`
	From      string  `json:"source_tier"`
	To        string  `json:"target_tier"`
	Progress  float64 `json:"progress"`
	Status    string  `json:"status"` // running, success or failed
	Elapsed   float64 `json:"elapsed_time"`
	Estimate  float64 `json:"estimated_time"`
	Error     string  `json:"error"`
	Code      string  `json:"code"`
}

// start begins a move by a request of the contract.
func (s *session) start(ctx context.Context, request map[string]any) (*job, error) {
	answer, err := s.ask(ctx, request)
	if err != nil {
		return nil, err
	}
	return readJob(answer)
}

func readJob(answer json.RawMessage) (*job, error) {
	j := &job{}
	if err := json.Unmarshal(answer, j); err != nil || j.ID == "" && j.Model == "" {
		return nil, failure(exitFailed, "version", "The server's answer names no job: "+clean(string(answer[:min(len(answer), 200)])))
	}
	return j, nil
}

// follow waits for a job's end, and returns what the contract says of it then.
func (s *session) follow(ctx context.Context, j *job, p *progress) (json.RawMessage, error) {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		answer, err := s.ask(ctx, map[string]any{"tier_job_status": j.ID})
		if err != nil {
			if i, ok := errors.AsType[interrupted](err); ok {
				return nil, fmt.Errorf("%w: the job %s goes on; modeltier ps shows it", i, j.ID)
			}
			return nil, err
		}
		if err := json.Unmarshal(answer, j); err != nil {
			return nil, err
		}
		switch j.Status {
		case "success":
			return answer, nil
		case "failed":
			f := failure(exitFailed, j.Code, j.Error)
			f.Model = j.Model
			return nil, f
		}
		at := &loading{Phase: "to " + j.To, Progress: j.Progress, Left: max(j.Estimate-j.Elapsed, 0)}
		if j.Progress == 0 { // what uses it may have to end first
			at.Phase = "waiting to go " + at.Phase
		}
		p.tell(j.Model, at)
		select {
		case <-poll.C:
		case <-ctx.Done(): // the next request tells it
		}
	}
}

// each carries out a request for every model: all are started, and then followed to their
// ends. With --json the answer is one object with what became of each, in that order.
func (s *session) each(ctx context.Context, models []string, request func(model string) map[string]any, follow bool, done func(j *job) string) error {
	p := s.progress()
	defer p.end()
	results := make([]any, len(models))
	started := make([]*job, len(models))
	var failed []error
	fail := func(i int, err error) error {
		f, refused := errors.AsType[*Failure](err)
		if !refused || f.Exit == exitNoServer {
			return err
		}
		told := *f
		told.Model = models[i]
		results[i] = &told
		if failed = append(failed, &told); !s.json {
			p.end()
			tell(s.out, s.err, nil, &told, false)
		}
		return nil
	}
	for i, model := range models {
		answer, err := s.ask(ctx, request(model))
		if err != nil {
			if err = fail(i, err); err != nil {
				return err
			}
			continue
		}
		results[i] = answer
		if started[i], err = readJob(answer); err != nil {
			return err
		}
	}
	for i, j := range started {
		if j == nil {
			continue
		}
		if follow {
			answer, err := s.follow(ctx, j, p)
			if err != nil {
				if err = fail(i, err); err != nil {
					return err
				}
				continue
			}
			results[i] = answer
		}
		if !s.json {
			p.end()
			fmt.Fprintln(s.out, clean(done(j)))
		}
	}
	if s.json {
		if err := writeJSON(s.out, map[string]any{"results": results}); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return silent(exitFailed)
	}
	return nil
}

func (o *options) unload() spec {
	var all, now bool
	return spec{
		use: "unload MODEL...", also: []string{"stop", "evict"}, short: "Take models out of memory", most: -1, complete: o.completeModels(-1),
		long: `Takes models to storage, and returns when they are there. A model that is in use, waited
for or moving leaves when that has ended; with --now it is refused, with in_use. Each keeps
its home, and comes back when it is asked for.

Ctrl-C ends the wait; what was begun goes on.`,
		flags: func(fs *pflag.FlagSet) {
			fs.BoolVar(&all, "all", false, "unload every model that is in memory, pinned ones too")
			fs.BoolVar(&now, "now", false, "refuse a model that is in use, instead of waiting until it is not")
		},
		run: func(ctx context.Context, s *session, models []string) error {
			if all == (len(models) > 0) {
				return usagef("unload takes the names of models, or --all")
			}
			if all {
				st, err := s.status(ctx)
				if err != nil {
					return err
				}
				for i := range st.Models {
					if m := &st.Models[i]; m.Tier != tier.Storage || m.Moving {
						models = append(models, m.Name)
					}
				}
				if len(models) == 0 && !s.json {
					fmt.Fprintln(s.out, "Nothing is in memory.")
					return nil
				}
			}
			return s.each(ctx, models, func(model string) map[string]any {
				return map[string]any{"unload": map[string]any{"model_name": model, "when_idle": !now}}
			}, true, func(j *job) string {
				if j.From == j.To {
					return j.Model + " was not in memory"
				}
				return fmt.Sprintf("%s is unloaded from %s", j.Model, j.From)
			})
		},
	}
}

func (o *options) move() spec {
	return spec{
		use: "move MODEL TIER", short: "Move a model to ram, swap or storage", least: 2, most: 2,
		long: `Moves a model to a tier, which is its home from then on, and returns when it is there.
Unlike load it is refused if there is no room at once.

Ctrl-C ends the wait; the move goes on.`,
		complete: func(cmd *cobra.Command, args []string, start string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return []cobra.Completion{tier.RAM.String(), tier.Swap.String(), tier.Storage.String()}, cobra.ShellCompDirectiveNoFileComp
			}
			return o.completeModels(1)(cmd, args, start)
		},
		run: func(ctx context.Context, s *session, args []string) error {
			to, err := tier.ParseTier(args[1])
			if err != nil {
				return usagef("TIER must be ram, swap or storage, and is %q", args[1])
			}
			j, err := s.start(ctx, map[string]any{"move_tier": map[string]any{"model_name": args[0], "target_tier": to.String()}})
			if err != nil {
				return s.there(ctx, args[0], to, err)
			}
			p := s.progress()
			defer p.end()
			answer, err := s.follow(ctx, j, p)
			if p.end(); err != nil {
				return err
			}
			if s.json {
				return writeJSON(s.out, answer)
			}
			fmt.Fprintf(s.out, "%s is in %s after %s\n", clean(j.Model), j.To, seconds(j.Elapsed))
			return nil
		},
	}
}

// there makes success of the refusal of a move if the model is where it is to go.
func (s *session) there(ctx context.Context, model string, to tier.Tier, refused error) error {
	if f, ok := errors.AsType[*Failure](refused); !ok || f.Code != "invalid_request" {
		return refused
	}
	st, err := s.status(ctx)
	if err != nil {
		return refused
	}
	m, ok := st.model(model)
	if !ok || m.Tier != to || m.Moving {
		return refused
	}
	if s.json {
		return writeJSON(s.out, map[string]any{"status": "success", "model_name": m.Name, "source_tier": to, "target_tier": to})
	}
	fmt.Fprintf(s.out, "%s is in %v already\n", clean(m.Name), to)
	return nil
}

func (o *options) rm() spec {
	return spec{
		use: "rm MODEL...", also: []string{"remove", "delete"}, short: "Take models out of the library; files stay", least: 1, most: -1, complete: o.completeModels(-1),
		long: `Takes models out of memory and out of the library, also after a restart, until they are
loaded from their file by a hot load. The files stay where they are. A model in use is refused.`,
		run: func(ctx context.Context, s *session, models []string) error {
			return s.each(ctx, models, func(model string) map[string]any { return map[string]any{"remove": model} }, true,
				func(j *job) string { return j.Model + " is removed from the library; its file stays" })
		},
	}
}

func (o *options) pin(on bool) spec {
	name, short, done := "pin", "Keep models where they are", " is pinned"
	long := "A pinned model gives way to no other and does not leave by idleness. It is brought nowhere:\nload or move it first."
	if !on {
		name, short, done = "unpin", "Let models give way again", " is not pinned"
		long = "Undoes pin."
	}
	return spec{
		use: name + " MODEL...", short: short, long: long, least: 1, most: -1, complete: o.completeModels(-1),
		run: func(ctx context.Context, s *session, models []string) error {
			return s.each(ctx, models, func(model string) map[string]any {
				return map[string]any{"pin": map[string]any{"model_name": model, "pinned": on}}
			}, false, func(j *job) string { return j.Model + done })
		},
	}
}
