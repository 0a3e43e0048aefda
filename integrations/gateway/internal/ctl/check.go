package ctl

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/spf13/cobra"
)

// finding is one fault or warning, for --json.
type finding struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	Key    string `json:"key,omitempty"`
	Value  string `json:"value,omitempty"`
	Rule   string `json:"rule"`
}

func (o *options) checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "check FILE", Short: "Look for mistakes in a configuration",
		Long: `Reads a configuration as modeltier serve does, and looks whether the files, programs and
folders that it names are there. Each fault is told as FILE:LINE:COLUMN, and the exit code is
1 if there is one; a warning alone is none. No server is needed, and nothing is started.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("check needs one FILE")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			file, warned, err := config.Read(args[0])
			if file != nil {
				err = file.Check(os.LookupEnv)
			}
			faults, warnings := findings(args[0], err), make([]finding, len(warned))
			for i, w := range warned {
				warnings[i] = finding(w)
			}
			out := cmd.OutOrStdout()
			if o.json {
				if err := writeJSON(out, map[string]any{"file": args[0], "faults": faults, "warnings": warnings}); err != nil {
					return err
				}
				if len(faults) > 0 {
					return silent(exitFailed)
				}
				return nil
			}
			for _, w := range warned {
				fmt.Fprintf(out, "%s (warning)\n", clean(w.String()))
			}
			for _, f := range faults {
				fmt.Fprintln(out, clean(f.String()))
			}
			if len(faults) > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s %s\n", alarm(cmd.ErrOrStderr()), plural(len(faults), "fault"))
				return silent(exitFailed)
			}
			var has []string
			for what, n := range map[string]int{"model": len(file.Models), "folder": len(file.Folders), "engine": len(file.Engines)} {
				if n > 0 {
					has = append(has, plural(n, what))
				}
			}
			slices.Sort(has)
			_, err = fmt.Fprintln(out, args[0], "is in order:", cmp.Or(strings.Join(has, ", "), "it names no models"))
			return err
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "answer in JSON, for programs")
	return cmd
}

// findings are the faults that an error of package config joins. What has no place, such as
// a file that is not there, is one of the file.
func findings(file string, err error) []finding {
	out := []finding{}
	var add func(error)
	add = func(err error) {
		if f, ok := err.(*config.Fault); ok {
			out = append(out, finding(*f))
			return
		}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, err := range joined.Unwrap() {
				add(err)
			}
			return
		}
		if f, ok := errors.AsType[*config.Fault](err); ok {
			out = append(out, finding(*f))
			return
		}
		out = append(out, finding{File: file, Rule: err.Error()})
	}
	if err != nil {
		add(err)
	}
	return out
}

func (f finding) String() string {
	if f.Line == 0 {
		return f.Rule // which names the file
	}
	fault := config.Fault(f)
	return fault.Error()
}
