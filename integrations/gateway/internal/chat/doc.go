// Package chat is OpenAI's POST /v1/chat/completions as the faces that are translated to
// it see it: what they ask, a [Request]; what comes back at once, an [Answer]; and what
// comes back as a stream, which a [Reader] turns into the calls of a [Sink].
//
// The names that matter: [Decode] reads a request of whatever face, in the exact case of
// its keys; a [FieldError] says what is wrong with one; a [Reader] is the body of an answer.
//
// Engines are not trusted: an answer is bounded in memory, and one that makes no sense is an
// error. What the package does not promise: to understand what it was not asked to have
// asked for, as several choices, log probabilities or audio.
package chat
