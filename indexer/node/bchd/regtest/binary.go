package regtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const bchdPackage = "github.com/gcash/bchd"

// buildNotice is how long the go command may take before Progress hears of a
// build: with a warm build cache it answers within a few seconds.
const buildNotice = 5 * time.Second

// findBinary returns the path of a bchd executable: path if there is one, else
// the one that the go command builds from the module graph (go.mod's tool
// directive) and keeps in its build cache. The go command must find go.mod from
// the working directory.
func findBinary(ctx context.Context, path string, progress func(string)) (string, error) {
	if path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("bchd executable: %w", err)
		}
		return found, nil
	}

	// Of several processes that start together (go test ./...), one builds.
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("keytree-bchd-build-%d.lock", os.Getuid())),
		os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("lock for building bchd: %w", err)
	}
	defer lock.Close()
	notice := time.AfterFunc(buildNotice, func() {
		progress("building bchd from the module graph (once, about a minute)")
	})
	defer notice.Stop()
	for {
		locked, err := tryLock(lock)
		if err != nil {
			return "", fmt.Errorf("lock for building bchd: %w", err)
		}
		if locked {
			break
		}
		select {
		case <-ctx.Done():
			return "", buildError(ctx, nil, "")
		case <-time.After(200 * time.Millisecond):
		}
	}

	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "tool", "-n", bchdPackage)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // compilers that outlive a killed go command
	if err := cmd.Run(); err != nil {
		return "", buildError(ctx, err, stderr.String())
	}
	built := strings.TrimSpace(stdout.String())
	if _, err := os.Stat(built); err != nil {
		return "", buildError(ctx, err, stderr.String())
	}
	return built, nil
}

func buildError(ctx context.Context, err error, stderr string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("building bchd: %w", context.Cause(ctx))
	}
	const hint = "run this in the keytree module's folder with Go installed, or give the path of a bchd (--bchd PATH)"
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("no go command to build bchd with: %s", hint)
	}
	return fmt.Errorf("go tool -n %s: %w: %s; %s", bchdPackage, err, strings.TrimSpace(stderr), hint)
}
