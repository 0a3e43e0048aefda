package clients

import (
	"encoding/base64"
	"errors"
	"net/http"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

func anthropicOf(url string) anthropic.Client {
	return anthropic.NewClient(option.WithBaseURL(url), option.WithAPIKey("none"), option.WithMaxRetries(120))
}

// toldTo is a request that says text.
func toldTo(blocks ...anthropic.ContentBlockParamUnion) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: talker, MaxTokens: 99, System: []anthropic.TextBlockParam{{Text: "Be brief."}},
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(blocks...)},
	}
}

func TestAnthropic_Messages(t *testing.T) {
	for way, without := range natively("/v1/messages") {
		t.Run(way, func(t *testing.T) {
			client, ctx := anthropicOf(faces(t, without...)), t.Context()
			streamed := func(ask anthropic.MessageNewParams) *anthropic.Message {
				t.Helper()
				var all anthropic.Message
				stream := client.Messages.NewStreaming(ctx, ask)
				for stream.Next() {
					if err := all.Accumulate(stream.Current()); err != nil {
						t.Fatal(err)
					}
				}
				if err := stream.Err(); err != nil {
					t.Fatal(err)
				}
				return &all
			}
			both := func(ask anthropic.MessageNewParams) map[string]*anthropic.Message {
				t.Helper()
				whole, err := client.Messages.New(ctx, ask)
				if err != nil {
					t.Fatal(err)
				}
				return map[string]*anthropic.Message{"whole": whole, "stream": streamed(ask)}
			}

			for way, got := range both(toldTo(anthropic.NewTextBlock(told))) {
				if len(got.Content) != 1 || got.Content[0].Text != told || got.StopReason != "end_turn" || got.Usage.OutputTokens != 5 {
					t.Errorf("%s: %+v", way, got)
				}
			}
			short := toldTo(anthropic.NewTextBlock(told))
			short.MaxTokens = 2
			for way, got := range both(short) {
				if len(got.Content) != 1 || got.Content[0].Text != "tell me" || got.StopReason != "max_tokens" {
					t.Errorf("%s, two tokens: %+v", way, got)
				}
			}
			image := toldTo(anthropic.NewTextBlock(told), anthropic.NewImageBlockBase64("image/png", base64.StdEncoding.EncodeToString([]byte("hi"))))
			image.Model = seer
			for way, got := range both(image) {
				if len(got.Content) != 1 || got.Content[0].Text != told+" (images: 1)" {
					t.Errorf("%s, an image: %+v", way, got)
				}
			}

			ask := toldTo(anthropic.NewTextBlock(told))
			ask.Tools = []anthropic.ToolUnionParam{anthropic.ToolUnionParamOfTool(anthropic.ToolInputSchemaParam{Properties: parameters["properties"]}, "look_up")}
			called := both(ask)
			for way, got := range called {
				if len(got.Content) != 1 || got.StopReason != "tool_use" || got.Content[0].Name != "look_up" || got.Content[0].ID == "" || argument(t, string(got.Content[0].Input)) != told {
					t.Fatalf("%s, a tool: %+v", way, got)
				}
			}
			ask.Messages = append(ask.Messages, called["whole"].ToParam(),
				anthropic.NewUserMessage(anthropic.NewToolResultBlock(called["whole"].Content[0].ID, "deep and blue", false)))
			for way, got := range both(ask) {
				if len(got.Content) != 1 || got.Content[0].Text != "deep and blue" {
					t.Errorf("%s, after the result: %+v", way, got)
				}
			}
		})
	}
}

func TestAnthropic_CountTokens(t *testing.T) {
	for way, without := range natively("/v1/messages") {
		t.Run(way, func(t *testing.T) {
			client := anthropicOf(faces(t, without...))
			got, err := client.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{
				Model: talker, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(told))},
			})
			if err != nil || got.InputTokens < 5 {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestAnthropic_Errors_AreItsOwn(t *testing.T) {
	client := anthropicOf(faces(t))
	ask := toldTo(anthropic.NewTextBlock(told))
	ask.Model = "talkr"
	_, err := client.Messages.New(t.Context(), ask)
	if e, ok := errors.AsType[*anthropic.Error](err); !ok || e.StatusCode != http.StatusNotFound || e.Type() != "not_found_error" {
		t.Errorf("an unknown model: %v", err)
	}
	stream := client.Messages.NewStreaming(t.Context(), ask)
	for stream.Next() {
		t.Errorf("an event of no model: %+v", stream.Current())
	}
	if e, ok := errors.AsType[*anthropic.Error](stream.Err()); !ok || e.StatusCode != http.StatusNotFound {
		t.Errorf("a stream of an unknown model: %v", stream.Err())
	}
}
