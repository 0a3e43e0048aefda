package ctl

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completeTime is how long a shell waits for names: a person has pressed a key.
const completeTime = time.Second

// completeModels completes the names of the server's models, most of them at most; < 0:
// any number. Without a server there are none, and nothing is said into the command line.
func (o *options) completeModels(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, start string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := o.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completeTime)
		defer cancel()
		text, err := c.get(ctx, "/v1/models")
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var list struct {
			Data []struct {
				ID       string
				Resident string `json:"resident_tier"`
				Aliases  []string
			}
		}
		_ = json.Unmarshal(text, &list) // what is no list has no names
		var out []cobra.Completion
		for _, m := range list.Data {
			for _, name := range append([]string{m.ID}, m.Aliases...) {
				// A name with a control character or a tab is none that a shell could take.
				if strings.HasPrefix(name, start) && clean(name) == name && !slices.Contains(args, name) {
					out = append(out, cobra.CompletionWithDesc(name, "in "+clean(m.Resident)))
				}
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
