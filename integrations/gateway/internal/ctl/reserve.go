package ctl

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"time"

	"github.com/modeltier/modeltier/tier"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// heldQuiet is how long a server that has given room may be silent: it writes an empty
// line every 15 s.
const heldQuiet = time.Minute

func (o *options) reserve() spec {
	var (
		reason   string
		lifetime time.Duration
	)
	return spec{
		use: "reserve SIZE [-- COMMAND...]", short: "Have models give way to another program while it runs", args: reserveArgs,
		long: `Waits until SIZE of memory is free of models, such as 4GB, and holds it: until Ctrl-C, for
the time of --for, or, with a COMMAND, while that runs. What holds it is the connection, so
that it cannot be forgotten. Idle models give way at once, models in use when their
requests end, pinned ones never.

With a COMMAND the exit code is the command's, 128 and the signal's number if one ended
it; if it could not be started, or no room was given, it is one of modeltier's own.`,
		flags: func(fs *pflag.FlagSet) {
			fs.StringVar(&reason, "reason", "", "say in ps, and to requests that are refused for it, that it is for this `TEXT` (default the COMMAND)")
			fs.DurationVar(&lifetime, "for", 0, "give it back after this `TIME`, such as 2h, at the latest")
		},
		complete: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault // the command's files
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		run: func(ctx context.Context, s *session, args []string) error {
			var want size
			if err := want.Set(args[0]); err != nil {
				return usagef("SIZE %q %w", args[0], err)
			}
			command := args[1:]
			switch {
			case want.bytes <= 0:
				return usagef("SIZE must be more than nothing")
			case lifetime < 0:
				return usagef("--for must not be negative")
			case reason == "" && len(command) > 0:
				reason = command[0]
			}
			var path string
			if len(command) > 0 {
				var err error
				if path, err = exec.LookPath(command[0]); err != nil {
					return usagef("the command cannot be run: %w", err)
				}
			}
			request := map[string]any{"gb": want.bytes.GB(), "hold": true}
			if reason != "" {
				request["reason"] = reason
			}
			if lifetime > 0 {
				request["for_s"] = lifetime.Seconds()
			}
			told := make(chan struct{})
			waits := time.AfterFunc(worthALine, func() {
				defer close(told)
				if !s.json {
					fmt.Fprintf(s.err, "waiting for %v\n", want.bytes)
				}
			})
			room, err := s.reserve(ctx, request)
			if !waits.Stop() {
				<-told
			}
			if err != nil {
				return err
			}
			defer room.release()
			if s.json {
				if err := writeJSON(s.out, room.answer); err != nil {
					return err
				}
			}
			if len(command) > 0 {
				return s.runInside(ctx, room, path, command)
			}
			return s.hold(ctx, room, want.bytes, lifetime)
		},
	}
}

// reserveArgs checks what there is before and behind the --.
func reserveArgs(cmd *cobra.Command, args []string) error {
	dash := cmd.ArgsLenAtDash()
	switch {
	case dash == 0 || len(args) == 0:
		return usagef("reserve needs a SIZE, such as 4GB, before all else")
	case dash < 0 && len(args) > 1, dash > 1:
		return usagef("a COMMAND stands behind --: modeltier reserve %s -- %s …", args[0], args[1])
	case dash == 1 && len(args) == 1:
		return usagef("there is no COMMAND behind --")
	}
	return nil
}

// room is a reservation that a connection holds.
type room struct {
	answer json.RawMessage
	ended  <-chan error // gets why, when the server's side has ended
	// release ends it.
	release func()
}

// reserve asks for room, and returns when it is given.
func (s *session) reserve(asked context.Context, request any) (*room, error) {
	// The end of what asks ends the wait, and not the connection that holds the room.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(asked))
	waiting := context.AfterFunc(asked, func() { cancel(context.Cause(asked)) })
	answer, err := s.send(ctx, http.MethodPost, "/v1/reservations", request)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	lines := bufio.NewReader(io.LimitReader(answer.Body, maxAnswer))
	release := func() {
		cancel(nil)
		answer.Body.Close()
	}
	first, err := lines.ReadBytes('\n')
	if err == nil || errors.Is(err, io.EOF) {
		first, err = s.judge(answer, first)
	} else {
		err = s.unreachable(ctx, err)
	}
	if err != nil {
		release()
		return nil, err
	}
	waiting()
	ended := make(chan error, 1)
	go func() {
		quiet := time.AfterFunc(heldQuiet, func() { cancel(errors.New("it has been silent for a minute")) })
		defer quiet.Stop()
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil || len(bytes.TrimSpace(line)) > 0 {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				ended <- err
				return
			}
			quiet.Reset(heldQuiet)
		}
	}()
	return &room{first, ended, release}, nil
}

// hold keeps room until a signal, its time or the server ends it.
func (s *session) hold(ctx context.Context, r *room, b tier.Bytes, lifetime time.Duration) error {
	if !s.json {
		how := "until Ctrl-C"
		if lifetime > 0 {
			how += fmt.Sprintf(", for %v at most", lifetime)
		}
		fmt.Fprintf(s.out, "%v is yours, %s\n", b, how)
	}
	began := time.Now()
	select {
	case <-ctx.Done(): // the end that was meant
		if !s.json {
			fmt.Fprintf(s.err, "%v is given back\n", b)
		}
		return nil
	case err := <-r.ended:
		// An orderly end is that of its time, which the server counts, or of a server that ends.
		if errors.Is(err, io.EOF) && lifetime > 0 && time.Since(began)+time.Second >= lifetime {
			return nil
		}
		return failure(exitFailed, "reservation_ended", "The server has ended the reservation: models may take the room again",
			"Look whether it still runs: modeltier ps")
	}
}

// runInside runs a command while the room is held. A Ctrl-C reaches the command by itself;
// SIGTERM is passed on, and it is for the command to end.
func (s *session) runInside(ctx context.Context, r *room, path string, command []string) error {
	cmd := exec.Command(path, command[1:]...)
	cmd.Args[0] = command[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	if err := cmd.Start(); err != nil {
		return failure(exitFailed, "command", "The command could not be started: "+err.Error())
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	signalled, ended := ctx.Done(), r.ended
	for {
		select {
		case err := <-done:
			return exitOf(err)
		case <-signalled:
			signalled = nil
			if i, ok := errors.AsType[interrupted](context.Cause(ctx)); !ok || !fromTerminal(i.Signal) {
				_ = terminate(cmd.Process)
			}
		case <-ended:
			ended = nil
			fmt.Fprintln(s.err, "modeltier: the reservation has ended, and models may take the room; the command goes on")
		}
	}
}
