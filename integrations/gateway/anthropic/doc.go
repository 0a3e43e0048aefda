// Package anthropic is the face that Anthropic's clients know: POST /v1/messages and
// POST /v1/messages/count_tokens. An engine that has the paths is asked as it is; one that
// lacks them is asked by OpenAI's chat/completions, to which [ChatRequest] translates,
// and from which [MessagesResponse] and [NewStream] do.
//
// What a request wants and chat/completions cannot give is an error that names the field:
// tools that run on the server, files by their ID, citations. What only helps, as prompt
// caching, or concerns the bill, is left out without a word; so are fields that are not
// known here.
package anthropic
