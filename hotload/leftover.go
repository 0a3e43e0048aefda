package hotload

import (
	"path/filepath"
	"regexp"
	"strings"
)

// keptByOthers are folders that file servers, desktops and file systems keep for
// themselves: what is in them was deleted, or is a shadow of a file.
var keptByOthers = map[string]bool{
	"@eadir": true, "#recycle": true, "#snapshot": true, // Synology
	"@recycle": true, "@recently-snapshot": true, // QNAP
	"$recycle.bin": true, "system volume information": true, // Windows
	"network trash folder": true, "temporary items": true, "__macosx": true, // macOS
	"lost+found": true, // ext4
}

// unfinishedSuffixes are how programs name a download that is under way, or was cut
// off: browsers, huggingface_hub, llama.cpp, LM Studio, LocalAI, Docker, aria2, curl
// and wget wrappers.
var unfinishedSuffixes = []string{
	".part", ".partial", ".crdownload", ".download", ".downloading", ".incomplete",
	".downloadinprogress", ".opdownload", ".tmp", ".temp", ".filepart", "-partial",
}

// pieces are files that were cut with split, and not into GGUF shards.
var pieces = regexp.MustCompile(`(?i)\.(gguf|safetensors)[-.](split-?[a-z0-9]+|part-?[a-z0-9]+|part[0-9]+of[0-9]+|[0-9]{2,3}|[a-z]{2})$`)

// unfinished returns why the name is that of a part of a download of weights, in
// words that follow it; "": it is not.
func unfinished(name string) string {
	lower := strings.ToLower(name)
	if stem, ok := strings.CutPrefix(lower, "incomplete-"); ok && formatOf(stem) != FormatUnknown { // GPT4All
		return unfinishedReason
	}
	if !strings.Contains(lower, ".gguf") && !strings.Contains(lower, ".safetensors") || formatOf(lower) != FormatUnknown {
		return ""
	}
	for _, suffix := range unfinishedSuffixes {
		if strings.HasSuffix(lower, suffix) {
			return unfinishedReason
		}
	}
	if pieces.MatchString(name) {
		return "is a piece of a file that was cut: join the pieces with cat, or with the tool that cut them"
	}
	return ""
}

const (
	unfinishedReason = "is a download under way, or one that was cut off"
	// beside is what aria2 leaves beside a file, which already has its full length.
	beside = ".aria2"
)

// foreignKinds are files of weights that are left out, by extension, in words.
var foreignKinds = map[string]string{
	".onnx": "ONNX", ".bin": "PyTorch or ggml", ".pt": "PyTorch", ".pth": "PyTorch", ".ckpt": "PyTorch", ".pkl": "PyTorch",
	".engine": "TensorRT", ".plan": "TensorRT", ".tflite": "TensorFlow Lite", ".h5": "TensorFlow", ".msgpack": "Flax",
	".ot": "Rust", ".mlmodel": "Core ML", ".rmodel": "GPT4All's remote", ".ggml": "ggml", ".ggjt": "ggml",
}

// foreign returns what kind of weights a file name indicates that are none of ours;
// "": none.
func foreign(name string) string {
	lower := strings.ToLower(name)
	if strings.HasPrefix(lower, "ggml-") && strings.HasSuffix(lower, ".bin") {
		return "whisper.cpp's ggml"
	}
	switch lower { // small files that are no weights
	case "training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt", "tokenizer.bin", "scaler.pt":
		return ""
	}
	return foreignKinds[filepath.Ext(lower)]
}
