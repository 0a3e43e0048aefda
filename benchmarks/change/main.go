package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/modeltier/modeltier/examples/demo"
)

// patience bounds each start and each answer.
const patience = 2 * time.Minute

type options struct {
	engine, server, peer, models, group, ram string
	rounds, changes                          int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	fs := flag.NewFlagSet("change", flag.ContinueOnError)
	fs.StringVar(&o.engine, "engine", "", "start engines by this `COMMAND`, in which {path} and {port} are replaced")
	fs.StringVar(&o.server, "server", "", "start the server by this `COMMAND`; -addr, -models, -engine and -state are added (default: \"modeltier serve\", built)")
	fs.StringVar(&o.peer, "peer", "", "compare with the front end that this `COMMAND` starts: {port} is replaced, and it serves the models by their files' names without .gguf")
	fs.StringVar(&o.models, "models", "", "take the first two GGUF files of this `FOLDER` (default: two of 1 GB are made)")
	fs.StringVar(&o.ram, "ram", "", "let the server hold this `SIZE` of models (default: one and a half models, so that one fits)")
	fs.StringVar(&o.group, "group", "", "run each way in a memory cgroup with this limit in `MiB`")
	fs.IntVar(&o.rounds, "rounds", 3, "let the ways take turns `N` times")
	fs.IntVar(&o.changes, "changes", 6, "change the model `N` times in each turn")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.engine == "" || fs.NArg() > 0 || o.rounds < 1 || o.changes < 1 {
		fs.Usage()
		return errors.New("an -engine is needed, and at least one round and change")
	}
	temp, err := os.MkdirTemp("", "change-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	models, err := o.prepare(ctx, temp)
	if err != nil {
		return err
	}
	ways := []way{
		&frontEnd{label: "modeltier", command: append(strings.Fields(o.server), "-addr", "127.0.0.1:{port}", "-models", o.models, "-engine", o.engine, "-state", "none", "-ram", o.ram)},
		&restart{command: strings.Fields(o.engine)},
	}
	if o.peer != "" {
		ways = append(ways, &frontEnd{label: "peer", command: strings.Fields(o.peer)})
	}
	figures := make([]figures, len(ways))
	for round := range o.rounds {
		for i, w := range ways {
			if err := o.measure(ctx, w, models, round, &figures[i]); err != nil {
				return fmt.Errorf("%s: %w", w.name(), err)
			}
		}
	}
	return report(out, ways, figures)
}

// model is a file that is served, and the name that the front ends give it.
type model struct{ name, path string }

// prepare makes what was not named: models and a server.
func (o *options) prepare(ctx context.Context, temp string) ([]model, error) {
	if o.models == "" {
		o.models = filepath.Join(temp, "models")
		if err := os.Mkdir(o.models, 0o755); err != nil {
			return nil, err
		}
		for _, name := range []string{"a", "b"} {
			if err := write(ctx, filepath.Join(o.models, name+".gguf"), &demo.Llama{Name: name, Width: 4096, Inner: 4096, Layers: 8}); err != nil {
				return nil, err
			}
		}
	}
	if o.server == "" {
		program := filepath.Join(temp, "modeltier")
		o.server = program + " serve"
		if b, err := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/modeltier/modeltier/integrations/gateway/cmd/modeltier").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("the server cannot be built: %w: %s", err, b)
		}
	}
	files, err := filepath.Glob(filepath.Join(o.models, "*.gguf"))
	if err != nil || len(files) < 2 {
		return nil, fmt.Errorf("%s holds %d GGUF files, and two are needed (%v)", o.models, len(files), err)
	}
	var models []model
	largest := int64(0)
	for _, path := range files[:2] {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		largest = max(largest, info.Size())
		models = append(models, model{strings.TrimSuffix(filepath.Base(path), ".gguf"), path})
	}
	o.ram = cmp.Or(o.ram, fmt.Sprintf("%dMiB", largest*3/2>>20))
	return models, nil
}

func write(ctx context.Context, path string, m *demo.Llama) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = m.Write(ctx, w, func(int) {})
	return errors.Join(err, w.Flush(), f.Sync(), f.Close())
}

// way is one way to change models.
type way interface {
	name() string
	// start makes it ready to take requests; run starts a program.
	start(ctx context.Context, run runner) error
	// to makes a model the one that answers, if that is not a matter of the request,
	// and returns where to send it.
	to(ctx context.Context, m model, run runner) (url string, err error)
	stop()
}

// figures are times to the first token.
type figures struct{ hot, change []time.Duration }

// measure lets a way take one turn: after both models have answered once, it goes from
// one to the other, and each answers twice.
func (o *options) measure(ctx context.Context, w way, models []model, round int, f *figures) (err error) {
	run := runner{}
	if o.group != "" {
		g, err := newGroup(fmt.Sprintf("change-%d-%d", os.Getpid(), round), o.group)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, g.remove()) }()
		run.group = g.dir
	}
	// What is cached already is charged to whom read it, and would be free for the group.
	for _, m := range models {
		if err := dropCached(m.path); err != nil {
			return err
		}
	}
	defer w.stop()
	if err := w.start(ctx, run); err != nil {
		return err
	}
	for i := range o.changes + 2 {
		m := models[i%2]
		began := time.Now()
		url, err := w.to(ctx, m, run)
		if err != nil {
			return err
		}
		took, err := firstToken(ctx, url, m.name, began)
		if err != nil {
			return err
		}
		hot, err := firstToken(ctx, url, m.name, time.Now())
		if err != nil {
			return err
		}
		if i >= 2 {
			f.change, f.hot = append(f.change, took), append(f.hot, hot)
		}
	}
	return nil
}

// firstToken sends a request for one token and returns how long after began it came.
func firstToken(ctx context.Context, url, model string, began time.Time) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body, _ := json.Marshal(map[string]any{
		"model": model, "stream": true, "max_tokens": 1, "temperature": 0, "prompt": "one two three",
		"cache_prompt": false, // or a hot token would be one of an answer that is known
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/completions", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return 0, fmt.Errorf("%s: %s", res.Status, b)
	}
	first := time.Duration(0)
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && first == 0 && strings.Contains(data, `"text":"`) && !strings.Contains(data, `"text":""`) {
			first = time.Since(began)
		}
	}
	if first == 0 {
		return 0, errors.Join(errors.New("the answer holds no token"), lines.Err())
	}
	return first, nil
}

// program is a running command.
type program struct {
	cmd  *exec.Cmd
	url  string
	done chan struct{}
}

// runner starts programs, in a cgroup if that is not "".
type runner struct{ group string }

// start starts a command and returns when it answers at the path.
func (r runner) start(ctx context.Context, command []string, replace map[string]string, path string) (*program, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args := slices.Clone(command)
	for i := range args {
		for from, to := range replace {
			args[i] = strings.ReplaceAll(args[i], from, to)
		}
	}
	// The words of an engine's own command are for the server to replace.
	for i := range args {
		if i == 0 || args[i-1] != "-engine" {
			args[i] = strings.ReplaceAll(args[i], "{port}", strconv.Itoa(port))
		}
	}
	if r.group != "" {
		args = append([]string{"sh", "-c", `echo $$ > "$0"/cgroup.procs && exec "$@"`, r.group}, args...)
	}
	p := &program{cmd: exec.Command(args[0], args[1:]...), url: "http://127.0.0.1:" + strconv.Itoa(port), done: make(chan struct{})}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
		if err != nil {
			return nil, err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return p, nil
			}
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("%s has ended: %v", args[0], p.cmd.ProcessState)
		case <-ctx.Done():
			p.stop()
			return nil, fmt.Errorf("%s does not answer: %w", args[0], context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *program) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.done
	}
	http.DefaultClient.CloseIdleConnections()
}

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// frontEnd is a server that changes models by itself.
type frontEnd struct {
	label   string
	command []string
	program *program
}

func (f *frontEnd) name() string { return f.label }

func (f *frontEnd) start(ctx context.Context, run runner) (err error) {
	f.program, err = run.start(ctx, f.command, nil, "/v1/models")
	return err
}

func (f *frontEnd) to(context.Context, model, runner) (string, error) { return f.program.url, nil }

func (f *frontEnd) stop() {
	if f.program != nil {
		f.program.stop()
	}
	f.program = nil
}

// restart stops one engine and starts the other.
type restart struct {
	command []string
	program *program
}

func (r *restart) name() string { return "stop and start" }

func (r *restart) start(context.Context, runner) error { return nil }

func (r *restart) to(ctx context.Context, m model, run runner) (url string, err error) {
	r.stop()
	// The numbers are what the server gives an engine that says nothing.
	replace := map[string]string{"{path}": m.path, "{name}": m.name, "{threads}": strconv.Itoa(runtime.NumCPU()), "{context}": "4096"}
	if r.program, err = run.start(ctx, r.command, replace, "/health"); err != nil {
		return "", err
	}
	return r.program.url, nil
}

func (r *restart) stop() {
	if r.program != nil {
		r.program.stop()
	}
	r.program = nil
}

// dropCached empties the page cache of a file that no process maps.
func dropCached(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return fadvise(f)
}

// group is a memory cgroup of version 1.
type group struct{ dir string }

func newGroup(name, mib string) (*group, error) {
	n, err := strconv.ParseInt(mib, 10, 40)
	if err != nil || n <= 0 {
		return nil, fmt.Errorf("-group %q: must be a number of MiB", mib)
	}
	g := &group{filepath.Join("/sys/fs/cgroup/memory", name)}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	return g, os.WriteFile(filepath.Join(g.dir, "memory.limit_in_bytes"), []byte(strconv.FormatInt(n<<20, 10)), 0o644)
}

// remove removes it once its processes have ended.
func (g *group) remove() (err error) {
	for range 200 {
		if err = os.Remove(g.dir); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// median and worst of times.
func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

func report(out io.Writer, ways []way, all []figures) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "way\tchanges\thot token, median\tchange, median\tchange, worst\tof hot\tof stop and start")
	base := math.NaN()
	for i, x := range ways {
		if _, ok := x.(*restart); ok {
			base = float64(median(all[i].change))
		}
	}
	for i, x := range ways {
		f := &all[i]
		hot, change := median(f.hot), median(f.change)
		fmt.Fprintf(w, "%s\t%d\t%v\t%v\t%v\t%.2f\t%.2f\n", x.name(), len(f.change), hot.Round(time.Millisecond), change.Round(time.Millisecond),
			slices.Max(f.change).Round(time.Millisecond), float64(change)/float64(hot), float64(change)/base)
	}
	return w.Flush()
}
