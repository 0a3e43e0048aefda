// Command modeltier serves more models than memory holds, and asks and steers a server
// that does. Run it without arguments for how to begin.
package main

import (
	"fmt"
	"os"

	"github.com/modeltier/modeltier/integrations/gateway/internal/ctl"
	"github.com/modeltier/modeltier/integrations/gateway/internal/serve"
	"github.com/spf13/cobra"
)

func main() { os.Exit(ctl.Main(rootCommand(), os.Args[1:], serve.ErrUsage)) }

const toBegin = `modeltier serves more models than memory holds.

To begin with:

  modeltier demo                     serve a small library that it makes
  modeltier serve -models FOLDER     serve the models of a folder

and in another terminal:

  modeltier ps                       what is in memory
  modeltier help                     all commands
`

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "modeltier",
		Short: "Serve more models than memory holds",
		Long: `modeltier serves more models than memory holds: it keeps each in ram, in swap or in
storage, and makes room for the one that is asked for.

Long flags may be written with one dash: -models is --models.

` + ctl.ExitCodes,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), toBegin)
			return err
		},
	}
	root.AddGroup(&cobra.Group{ID: "serve", Title: "Commands that serve:"})
	for _, cmd := range []*cobra.Command{serve.Command(), serve.DemoCommand()} {
		cmd.GroupID = "serve"
		root.AddCommand(cmd)
	}
	ctl.AddTo(root)
	return root
}
