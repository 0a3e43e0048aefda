// Package gatewaytest is an engine for the tests of a front end. It answers on every path
// that llama-server and its kind have, in their shapes, and says what it was told: a chat
// gets its last message back, word by word, so that a test sees whether an answer belongs
// to its request. A request with the header [Fault] is answered wrongly in the way that the
// header names.
//
// [Engine.Handler] is the engine in this process. As a process of its own it is the test
// binary itself: TestMain calls [Main] first, and a model's engine is started by [Command].
//
// It computes nothing, takes no memory for a model, and doesn't check what llama-server
// would check: parameters that it doesn't know change nothing.
package gatewaytest
