package clients

import (
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/openai/openai-go/v3"
)

// 64 clients stream from six models of which three fit, until each has had some.
func TestManyStreams_WhileModelsChange_NoneIsBrokenAndNothingIsLeft(t *testing.T) {
	const clients, each = 64, 4
	models := []string{"gpt2-small", "gpt2-medium", "gpt2-large", "bert-large", "gpt-j-6b", "llama-7b"}
	for name, start := range engines {
		t.Run(name, func(t *testing.T) {
			var pids []int
			t.Run("streams", func(t *testing.T) {
				url := start(t, "-ram", "200MiB")
				client := clientOf(url)
				var all sync.WaitGroup
				for i := range clients {
					all.Go(func() {
						for n := range each {
							model := models[(i+n)%len(models)]
							stream := client.Chat.Completions.NewStreaming(t.Context(), chat(model, "What do you know of water?"))
							var got openai.ChatCompletionAccumulator
							for stream.Next() {
								got.AddChunk(stream.Current())
							}
							if err := stream.Err(); err != nil || len(got.Choices) != 1 || len(strings.Fields(got.Choices[0].Message.Content)) != 5 {
								t.Errorf("%s: %+v, %v", model, got.Choices, said(err))
							}
						}
					})
				}
				all.Wait()
				idle(t, url)
				s := statusOf(t, url)
				sum := int64(0)
				for _, m := range s.Models {
					sum += m.ChargedRAM
				}
				if s.RAM.Used > s.RAM.Limit || s.RAM.Charged != sum {
					t.Errorf("the account at the end: %+v, the models' %d", s.RAM, sum)
				}
				for _, e := range s.Parts.Mover.Engines {
					if e.Pid != 0 {
						pids = append(pids, e.Pid)
					}
				}
				t.Logf("%d streams, %d models gave way, %d engines at the end", clients*each, s.Evictions, len(pids))
				if s.Evictions == 0 {
					t.Error("no model changed")
				}
			})
			for _, pid := range pids { // the server has ended
				if p, err := os.FindProcess(pid); err == nil && p.Signal(syscall.Signal(0)) == nil {
					t.Errorf("engine %d is still there", pid)
				}
			}
		})
	}
}
