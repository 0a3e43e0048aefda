package ctl

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Exit codes. They are stated in the help of the command and in docs/cli.md.
const (
	exitDone     = 0
	exitFailed   = 1 // refused, or it failed
	exitUsage    = 2 // the command line is wrong
	exitNoServer = 3 // nothing there that speaks as modeltier does
	exitSignal   = 128
)

// ExitCodes says what they are, for the help of the command.
const ExitCodes = `Exit codes: 0 done; 1 refused or failed, with the reason; 2 the command line is wrong;
3 no modeltier server answers at that address; 130 ended by Ctrl-C.`

// Failure is an error as a person and a program are told of it: the fields but Exit are
// those of an error of the JSON contract.
type Failure struct {
	Exit        int      `json:"-"`
	Status      string   `json:"status"` // "error"
	Model       string   `json:"model_name,omitempty"`
	Reason      string   `json:"reason"`
	Code        string   `json:"code"`
	Suggestions []string `json:"suggestions"`
	RetryAfter  float64  `json:"retry_after,omitempty"` // seconds
}

func (f *Failure) Error() string { return f.Reason }

func failure(exit int, code, reason string, suggestions ...string) *Failure {
	if suggestions == nil {
		suggestions = []string{}
	}
	return &Failure{Exit: exit, Status: "error", Reason: reason, Code: code, Suggestions: suggestions}
}

// usageError is a command line that is wrong.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ os.Signal }

func (i interrupted) Error() string { return "ended by " + i.Signal.String() }

// silent is an exit code that needs no words: of a command that was run.
type silent int

func (s silent) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// exitCode returns that of an error.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	if code, ok := errors.AsType[silent](err); ok {
		return int(code)
	}
	if f, ok := errors.AsType[*Failure](err); ok {
		return f.Exit
	}
	if i, ok := errors.AsType[interrupted](err); ok {
		number, _ := i.Signal.(syscall.Signal)
		return exitSignal + int(number)
	}
	if isUsage(err) {
		return exitUsage
	}
	return exitFailed
}

// isUsage reports whether the command line is at fault.
func isUsage(err error) bool { return as[usageError](err) }

func as[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// exitOf is the exit code of a command that was run, as a shell tells it.
func exitOf(err error) error {
	exited, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	if w, ok := exited.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return silent(exitSignal + int(w.Signal()))
	}
	return silent(exited.ExitCode())
}
