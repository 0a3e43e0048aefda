package llama

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

var errElsewhere = errors.New("llama.cpp is fetched for linux/amd64 and linux/arm64 only")

// released returns the package that the libraries for a platform come in, and its
// hash as the registry lists it.
func released(platform string) (release, integrity string, err error) {
	switch platform {
	case "linux/amd64":
		return "@node-llama-cpp/linux-x64@3.22.1", "5uCCDNqWCNfaAm8aR/Uzxbo4HBpKgNF91kCHPepKhgMgV2OAmatoefbOlMihsqCiH2Od35E/eUHQCFbfRBJuOg==", nil
	case "linux/arm64":
		return "@node-llama-cpp/linux-arm64@3.22.1", "W+7naKCXX9/eEjjFmRS8vvx91QyLXDbeFxexZc3bh/PtQABZgmRL3C0AtYYXn4YGTj/3Qor4lWZn2tpjZFPLdQ==", nil
	}
	return "", "", fmt.Errorf("%w: there is none for %s", errElsewhere, platform)
}

// Bounds on what is taken from the package, well above what it holds.
const (
	maxPackage = 64 << 20
	maxLibrary = 32 << 20
	maxFiles   = 64
)

// linked are the names that the binding opens libraries by, beside those that they
// have in the package.
var linked = map[string]string{"libllama.so": "libllama.v0.5.0.so", "libggml.so": "libggml.v0.5.0.so"}

// Fetch returns a folder with the libraries of llama.cpp for this platform, below
// dir. They are fetched with "npm pack" the first time, up to 10 MB, and kept if
// their hash is right. Several processes may do it at once.
func Fetch(ctx context.Context, dir string) (libs string, err error) {
	release, integrity, err := released(runtime.GOOS + "/" + runtime.GOARCH)
	if err != nil {
		return "", err
	}
	libs = filepath.Join(dir, "llama.cpp-"+integrity[:8])
	if _, err := os.Stat(libs); err == nil {
		return libs, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	temp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", release)
	cmd.Dir = temp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm pack %s: %w: %s", release, err, bytes.TrimSpace(out[:min(len(out), 500)]))
	}
	packed, err := filepath.Glob(filepath.Join(temp, "*.tgz"))
	if err != nil || len(packed) != 1 {
		return "", errors.Join(fmt.Errorf("npm pack %s left %d packages", release, len(packed)), err)
	}
	f, err := os.Open(packed[0])
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPackage))
	if err != nil {
		return "", err
	}
	if sum := sha512.Sum512(b); base64.StdEncoding.EncodeToString(sum[:]) != integrity {
		return "", fmt.Errorf("%s is not the package that was released: its sha512 is %x", release, sum)
	}
	whole := filepath.Join(temp, "libs")
	if err := unpack(b, whole); err != nil {
		return "", fmt.Errorf("%s: %w", release, err)
	}
	if err := os.Rename(whole, libs); err != nil {
		if _, there := os.Stat(libs); there != nil {
			return "", err
		} // else another process was faster
	}
	return libs, nil
}

// unpack takes the shared libraries out of a package, by their last name, and links
// them by the names that the binding opens.
func unpack(b []byte, to string) error {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	r, n := tar.NewReader(z), 0
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Base(h.Name)
		if h.Typeflag != tar.TypeReg || !strings.HasSuffix(name, ".so") {
			continue
		}
		if n++; n > maxFiles || h.Size > maxLibrary {
			return fmt.Errorf("%s, of %d bytes, is more than is taken", name, h.Size)
		}
		lib, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), lib, 0o755); err != nil {
			return err
		}
	}
	if n == 0 {
		return errors.New("no libraries in it")
	}
	for name, of := range linked {
		if err := os.Symlink(of, filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}
