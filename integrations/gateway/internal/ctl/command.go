package ctl

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

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
		return usageError{err}
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
	if near := tier.Nearest(unknown.GetSpecifiedName(), names); len(near) > 0 {
		return usagef("%w; did you mean %s?", err, strings.Join(near, " or "))
	}
	return usageError{err}
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
