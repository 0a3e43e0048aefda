// Command modeltier serves more models than memory holds.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/modeltier/modeltier/integrations/gateway/internal/serve"
	"github.com/spf13/cobra"
)

func main() {
	root := &cobra.Command{Use: "modeltier", Short: "Serve more models than memory holds", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(serve.Command(), serve.DemoCommand())
	args := os.Args[1:]
	for i, a := range args {
		if len(a) > 2 && a[0] == '-' && a[1] != '-' {
			args[i] = "-" + a
		}
	}
	root.SetArgs(args)
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "modeltier:", err)
		if errors.Is(err, serve.ErrUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}
