package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/modeltier/modeltier/tier"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// options are what every client command takes.
type options struct {
	server, keyFile string
	json            bool
}

func (o *options) flags(fs *pflag.FlagSet) {
	fs.StringVar(&o.server, "server", "", "ask the server at this `URL`, or unix:PATH (default $"+serverVariable+", else "+defaultServer+")")
	fs.StringVar(&o.keyFile, "key-file", "", "send the key in the first line of this `FILE` (default the key in $"+keyVariable+")")
	fs.BoolVar(&o.json, "json", false, "answer in JSON, for programs")
}

// connect returns what asks the server.
func (o *options) connect() (*client, error) {
	key := os.Getenv(keyVariable)
	if o.keyFile != "" {
		var err error
		if key, err = readKey(o.keyFile); err != nil {
			return nil, err
		}
	}
	if err := checkKey(key); err != nil {
		return nil, err
	}
	return newClient(cmp.Or(o.server, os.Getenv(serverVariable), defaultServer), key)
}

// session is one run of a command.
type session struct {
	*client
	json     bool
	out, err io.Writer
	in       io.Reader
}

// spec is a command of the client's.
type spec struct {
	use, short, long string
	// also are what other programs call it, whose users type that.
	also []string
	// least and most bound how many arguments there may be; most < 0: any number.
	least, most int
	args        cobra.PositionalArgs // instead
	complete    cobra.CompletionFunc
	flags       func(*pflag.FlagSet)
	run         func(ctx context.Context, s *session, args []string) error
}

// command makes one of a spec. Its run has a context that a signal ends.
func (o *options) command(of spec) *cobra.Command {
	cmd := &cobra.Command{
		Use: of.use, Short: of.short, Long: of.long, SuggestFor: of.also,
		Args: func(cmd *cobra.Command, args []string) error {
			switch n := len(args); {
			case n < of.least:
				return usagef("%s needs %s", cmd.Name(), arguments(of.use))
			case of.most >= 0 && n > of.most:
				return usagef("%s takes %s and no more: %q", cmd.Name(), arguments(of.use), args[of.most])
			}
			return nil
		},
		ValidArgsFunction: of.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.connect()
			if err != nil {
				return err
			}
			log.SetOutput(io.Discard) // where net/http wonders about servers that are none
			ctx, end := untilSignal(cmd.Context())
			defer end()
			return of.run(ctx, &session{c, o.json, cmd.OutOrStdout(), cmd.ErrOrStderr(), cmd.InOrStdin()}, args)
		},
	}
	if of.args != nil {
		cmd.Args = of.args
	}
	if of.complete == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	cmd.Flags().SortFlags = false
	if of.flags != nil {
		of.flags(cmd.Flags())
	}
	o.flags(cmd.Flags())
	return cmd
}

// arguments is what a use line says behind the name.
func arguments(use string) string {
	if _, args, ok := strings.Cut(use, " "); ok {
		return args
	}
	return "no arguments"
}

// untilSignal returns a context that the first SIGINT or SIGTERM ends, with the cause
// interrupted. The second ends the process.
func untilSignal(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer signal.Stop(caught)
		select {
		case s := <-caught:
			cancel(interrupted{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// AddTo puts the client's commands under the root command of modeltier, and makes that
// one that Main can run.
func AddTo(root *cobra.Command) {
	o := &options{}
	o.flags(root.Flags()) // which may stand before the command's name
	root.SilenceErrors, root.SilenceUsage = true, true
	root.Version = thisBuild().String()
	root.SetVersionTemplate("{{.Version}}\n")
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	root.SetFlagErrorFunc(flagError)
	root.AddGroup(&cobra.Group{ID: "client", Title: "Commands that ask a running server:"})
	for _, of := range []spec{
		o.ps(), o.ls(), o.show(),
		o.load(), o.unload(), o.move(), o.pin(true), o.pin(false), o.rm(),
		o.reserve(), o.limits(), o.optimize(),
	} {
		cmd := o.command(of)
		cmd.GroupID = "client"
		root.AddCommand(cmd)
	}
	root.AddCommand(o.checkCommand(), o.versionCommand())
}

// flagError marks what is wrong with a flag as an error of the command line, and names the
// nearest where there is none of that name.
func flagError(cmd *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return Usage(err)
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
	if near := tier.Nearest(unknown.GetSpecifiedName(), names); len(near) > 0 {
		return usagef("%w; did you mean %s?", err, strings.Join(near, " or "))
	}
	return Usage(err)
}

func unknownCommand(root *cobra.Command, name string) error {
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	near := tier.Nearest(name, names)
	for _, c := range root.Commands() {
		if slices.Contains(c.SuggestFor, name) {
			near = []string{c.Name()}
		}
	}
	if len(near) == 0 {
		return usagef("there is no command %q", name)
	}
	return usagef("there is no command %q; did you mean %s?", name, strings.Join(near, " or "))
}

// Main runs root with the arguments of a command line, tells of its error, and returns
// the exit code. An error that unwraps to one of usage is one of the command line, as are
// those of Usage.
func Main(root *cobra.Command, args []string, usage ...error) int {
	args = twoDashes(root, args)
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitDone
	}
	for _, u := range usage {
		if errors.Is(err, u) {
			fmt.Fprintln(root.ErrOrStderr(), alarm(root.ErrOrStderr()), err) // which says more itself
			return exitUsage
		}
	}
	if isUsage(err) {
		if word := firstWord(args); cmd == nil || cmd == root && word != "" {
			if c, _, found := root.Find([]string{word}); found != nil || c == root {
				err = unknownCommand(root, word) // and what follows is for that
			}
		}
	}
	tell(root.OutOrStdout(), root.ErrOrStderr(), cmd, err, root.Flag("json").Value.String() == "true")
	return exitCode(err)
}

// tell prints an error: to a person what is wrong and what to do, to a program one object.
func tell(out, stderr io.Writer, cmd *cobra.Command, err error, wantsJSON bool) {
	if as[silent](err) {
		return
	}
	f, refused := errors.AsType[*Failure](err)
	if refused && wantsJSON {
		writeJSON(out, f)
		return
	}
	if refused {
		model, code := "", ""
		if f.Model != "" {
			model = clean(f.Model) + ": "
		}
		if f.Code != "" {
			code = " (" + clean(f.Code) + ")"
		}
		fmt.Fprintf(stderr, "%s %s%s%s\n", alarm(stderr), model, clean(f.Reason), code)
		for _, s := range f.Suggestions {
			fmt.Fprintf(stderr, "  %s\n", clean(s))
		}
		return
	}
	fmt.Fprintln(stderr, alarm(stderr), err)
	if isUsage(err) {
		name := "modeltier"
		if cmd != nil {
			name = cmd.CommandPath()
		}
		fmt.Fprintf(stderr, "  %s --help says what there is.\n", name)
	}
}

// alarm begins the line of an error.
func alarm(w io.Writer) string {
	const name = "modeltier:"
	if styled(w) {
		return "\x1b[31m" + name + "\x1b[0m"
	}
	return name
}

// firstWord returns the first argument that is no flag.
func firstWord(args []string) string {
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			return a
		}
	}
	return ""
}

// twoDashes writes long flags with the two dashes that they have here, where people write
// one, as for programs that read flags with Go's own package: -addr is --addr. A word that
// begins with a short flag of some command is that, unless there is a long one of the whole
// word. What follows "--" is not ours.
func twoDashes(root *cobra.Command, args []string) []string {
	long, short := map[string]bool{"help": true, "version": true}, map[string]bool{"h": true}
	var collect func(*cobra.Command)
	collect = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) { long[f.Name], short[f.Shorthand] = len(f.Name) > 1, true })
		for _, c := range cmd.Commands() {
			collect(c)
		}
	}
	collect(root)
	isLong := func(word string) bool {
		name, _, _ := strings.Cut(word, "=")
		return long[name] || len(name) > 1 && unicode.IsLetter(rune(name[0])) && !short[name[:1]]
	}
	out := make([]string, len(args))
	for i, a := range args {
		if a == "--" {
			copy(out[i:], args[i:])
			break
		}
		out[i] = a
		if word, dashed := strings.CutPrefix(a, "-"); dashed && isLong(word) {
			out[i] = "-" + a
		}
	}
	return out
}

// writeJSON prints a value of ours or of the server's, indented.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
