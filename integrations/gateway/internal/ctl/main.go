package ctl

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Main runs root with the arguments of a command line, tells of its error, and returns
// the exit code. An error that unwraps to one of usage is one of the command line.
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

// firstWord returns the first argument that is neither a flag nor the value of one that
// may stand there.
func firstWord(args []string) string {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	(&options{}).flags(fs)
	fs.ParseErrorsWhitelist.UnknownFlags = true
	fs.Usage = func() {}
	_ = fs.Parse(args) // what is wrong is known already
	return fs.Arg(0)
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
