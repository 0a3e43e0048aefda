package serve

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// maxToldLeftOut bounds how many of the files that are left out are told.
const maxToldLeftOut = 20

// tellLeftOut prints what is in the folder and is not served.
func (lib *library) tellLeftOut(w io.Writer, now modeltier.Status) {
	for i, s := range now.LeftOut {
		if i == maxToldLeftOut {
			fmt.Fprintf(w, "left out: %d more, see left_out of /status\n", len(now.LeftOut)-i)
			break
		}
		fmt.Fprintln(w, "left out:", s)
	}
	if len(now.Models) == 0 && lib.watch {
		fmt.Fprintf(w, "there is no GGUF or safetensors file in %s yet\n", lib.dir)
	}
}

// warn tells what the machine cannot have of the limits.
func (lib *library) warn(w io.Writer) {
	for _, what := range lib.beyond {
		fmt.Fprintln(w, "warning:", what)
	}
}

// introduce prints what is served, where, and what to try at the first of the listeners.
// Models and limits are those of now, which may be remembered ones.
func (lib *library) introduce(w io.Writer, now modeltier.Status, lns []net.Listener, keys bool) {
	fmt.Fprintf(w, "serving %d models: %s\n", len(now.Models), lib.about)
	fmt.Fprintf(w, "limits: ram %v, swap %v, reserved %v\n", now.Limits.RAM, now.Limits.Swap, now.Limits.Reserved)
	for _, name := range slices.Sorted(maps.Keys(lib.engines)) {
		fmt.Fprintf(w, "engine: %s\n", strings.Join(lib.engines[name].Command, " "))
	}
	if lib.state != "" {
		fmt.Fprintf(w, "what changes is remembered in %s\n", lib.state)
	}
	at, curl := url.URL{Scheme: "http"}, "  curl -s "
	// Programs read the first of these lines: from then on the server answers.
	for i, ln := range lns {
		what, everywhere := url.URL{Scheme: "http", Host: ln.Addr().String()}, false
		switch addr := ln.Addr().(type) {
		case *net.TCPAddr:
			if addr.IP.IsUnspecified() {
				everywhere, what.Host = true, net.JoinHostPort("127.0.0.1", strconv.Itoa(addr.Port))
			}
		case *net.UnixAddr:
			what = url.URL{Scheme: "unix", Opaque: addr.Name}
		}
		if fmt.Fprintf(w, "listening on %s\n", &what); everywhere {
			fmt.Fprintln(w, "and on every other address of this machine")
		}
		if i > 0 {
			continue
		}
		if at.Host = what.Host; what.Scheme == "unix" {
			at.Host, curl = "localhost", curl+"--unix-socket "+quoted(what.Opaque)+" "
		}
	}

	if keys {
		curl += `-H "Authorization: Bearer $` + tokenVariable + `" `
	}
	fmt.Fprintf(w, "\nTry, in another terminal; a JOB is the job_id of the answer before, a RESERVATION its reservation:\n\n")
	first, last := ends(now.Models)
	for _, p := range lib.prompts(now.Models) {
		fmt.Fprintf(w, "%s%s -d %s\n", strings.Replace(curl, "-s ", "-sN ", 1), at.JoinPath(p[0]), quoted(p[1]))
	}
	server := ""
	if unix, ok := lns[0].Addr().(*net.UnixAddr); ok {
		server = " --server " + quoted("unix:"+unix.Name)
	} else if at.Host != defaultAddr {
		server = " --server " + quoted(at.Host)
	}
	for _, command := range []string{"ps", "load " + quoted(last), "help"} {
		fmt.Fprintf(w, "  modeltier%s %s\n", server, command)
	}
	for _, request := range lib.requests(first, last, now.Limits) {
		fmt.Fprintf(w, "%s%s -d %s\n", curl, &at, quoted(request))
	}
	paths := []string{"/v1/models/" + last, "/status", "/v1/models", "/readyz", "/healthz"}
	if lib.engines == nil {
		paths[0] += "/digest"
	}
	for _, path := range paths {
		fmt.Fprintf(w, "%s%s\n", curl, quoted(at.JoinPath(path).String()))
	}
	if runtime.GOOS == "linux" && lib.spare.Name != "" {
		fmt.Fprintf(w, "\nWhat the kernel has in memory of the files:\n\n  fincore %s%c*.gguf\n", quoted(lib.dir), filepath.Separator)
	}
	fmt.Fprintf(w, "\nCtrl-C ends the server.\n")
}

// prompts are paths of OpenAI's API, and what to send there: models that are able to, as
// far as they say. Without engines there are none.
func (lib *library) prompts(models []modeltier.ModelStatus) (all [][2]string) {
	if lib.engines == nil {
		return nil
	}
	if talks := able(models, "text-generation"); talks != "" {
		all = append(all,
			[2]string{"/v1/chat/completions", `{"model": ` + text(talks) + `, "stream": true, "messages": [{"role": "user", "content": "What do you know of water?"}]}`},
			[2]string{"/v1/completions", `{"model": "auto", "priority": "speed", "prompt": "The people", "max_tokens": 16}`})
	}
	if embeds := able(models, "embeddings"); embeds != "" {
		all = append(all, [2]string{"/v1/embeddings", `{"model": ` + text(embeds) + `, "input": "a word"}`})
	}
	return all
}

// able returns the last model that says that it is able to, else the first that says
// nothing, or a placeholder if there is no model.
func able(models []modeltier.ModelStatus, to string) (name string) {
	if len(models) == 0 {
		return "NAME"
	}
	for _, m := range models {
		if slices.Contains(m.Capabilities, to) {
			name = m.Name
		}
	}
	for _, m := range models {
		if name == "" && len(m.Capabilities) == 0 {
			name = m.Name
		}
	}
	return name
}

// requests are one of each that the JSON contract has, in an order in which they
// make sense.
func (lib *library) requests(first, last string, limits tier.Limits) []string {
	first, last = text(first), text(last)
	spare := lib.spare
	if spare.Name == "" {
		spare = tier.Model{Name: "NAME", Path: "FILE", Home: tier.RAM, Capabilities: []string{"text-generation"}}
	}
	engine := ""
	if len(lib.engines) > 1 {
		engine = `, "engine": ` + text(slices.Min(slices.Collect(maps.Keys(lib.engines))))
	}
	return []string{
		`{"list_models": true}`,
		`{"model": ` + last + `}`,
		`{"auto_select": true}`,
		`{"capabilities": ["text-generation"], "priority": "speed"}`,
		`{"preferred_model": ` + last + `, "fallback": "auto"}`,
		`{"hot_load": {"model_name": ` + text(spare.Name) + `, "model_config": {"path": ` + text(spare.Path) +
			`, "tier": ` + text(spare.Home) + `, "capabilities": ` + text(spare.Capabilities) + engine + `}}}`,
		`{"load_status": "JOB"}`,
		`{"move_tier": {"model_name": ` + first + `, "target_tier": "storage"}}`,
		`{"tier_job_status": "JOB"}`,
		`{"tier_status": true}`,
		`{"update_limits": {"ram_max_gb": ` + gb(limits.RAM+limits.RAM/5) + `}}`,
		`{"auto_optimize": true}`,
		`{"alias": {"name": "my-alias", "model_name": ` + last + `}}`,
		`{"pin": {"model_name": "my-alias", "pinned": true}}`,
		`{"pin": {"model_name": "my-alias", "pinned": false}}`,
		`{"unload": {"model_name": "my-alias", "when_idle": true}}`,
		`{"reserve": {"gb": ` + gb(limits.RAM/10) + `, "reason": "a game", "for_s": 60}}`,
		`{"release": "RESERVATION"}`,
		`{"remove": ` + text(spare.Name) + `}`,
	}
}

// gb is a size in GB, to the KiB.
func gb(b tier.Bytes) string { return strconv.FormatFloat(math.Round(1e6*b.GB())/1e6, 'f', -1, 64) }

// ends returns the names of the first and the last model, or placeholders if there is none.
func ends(models []modeltier.ModelStatus) (first, last string) {
	if len(models) == 0 {
		return "NAME", "NAME"
	}
	return models[0].Name, models[len(models)-1].Name
}

// text is v as JSON. It is given what has no error to give.
func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// quoted is s for a shell to take as it is.
func quoted(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-:%"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
