package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v2"
)

// packages are the files with which keytree is packed.
const packages = "../../scripts"

func readPackage(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(packages, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// understood returns the command of a command line that keytree would begin with, in an environment.
func understood(t *testing.T, env map[string]string, args ...string) *cobra.Command {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
	root := (&app{stdout: &output{w: new(bytes.Buffer)}, stderr: new(bytes.Buffer)}).rootCommand()
	cmd, rest, err := root.Find(args)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err == nil {
		err = readSettings(cmd)
	}
	if err != nil {
		t.Errorf("keytree %q: %v", args, err)
	}
	for name := range env {
		flag := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, envPrefix)), "_", "-")
		if f := cmd.Flags().Lookup(flag); f == nil || !isSetting(f) || !f.Changed {
			t.Errorf("keytree %q has no setting for %s", args, name)
		}
	}
	return cmd
}

// TestContainer checks what the container files say of keytree.
func TestContainer(t *testing.T) {
	dockerfile := readPackage(t, "container/Dockerfile")
	instruction := func(name string) string {
		t.Helper()
		found := regexp.MustCompile(`(?m)^`+name+` (.*)$`).FindAllStringSubmatch(dockerfile, -1)
		if len(found) == 0 {
			t.Fatalf("no %s", name)
		}
		return found[len(found)-1][1]
	}
	program := func(text string) []string {
		t.Helper()
		var args []string
		if err := json.Unmarshal([]byte(text), &args); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return args
	}
	if entry := program(instruction("ENTRYPOINT")); len(entry) != 1 || entry[0] != "/usr/bin/keytree" {
		t.Errorf("it starts %q", entry)
	}
	dataDir, ok := strings.CutPrefix(instruction("ENV"), "KEYTREE_DATA_DIR=")
	if !ok || dataDir != instruction("VOLUME") {
		t.Errorf("the data folder %s is no volume", dataDir)
	}
	if user := instruction("USER"); user != "65532:65532" {
		t.Errorf("it runs as %s", user)
	}
	_, check, _ := strings.Cut(instruction("HEALTHCHECK"), "CMD ")
	if args := program(check); args[0] != "/usr/bin/keytree" || understood(t, map[string]string{"KEYTREE_DATA_DIR": t.TempDir()}, args[1:]...).Name() != "status" {
		t.Errorf("its health is checked by %q", args)
	}

	var compose struct {
		Services map[string]struct {
			Environment map[string]string
			Volumes     []string
			Grace       string `yaml:"stop_grace_period"`
			Build       struct{ Context, Dockerfile string }
		}
	}
	if err := yaml.Unmarshal([]byte(readPackage(t, "container/compose.yaml")), &compose); err != nil {
		t.Fatal(err)
	}
	service := compose.Services["keytree"]
	if built := filepath.Join(packages, "container", service.Build.Context, service.Build.Dockerfile); filepath.Clean(built) != "../../scripts/container/Dockerfile" {
		t.Errorf("it is built from %s", built)
	}
	env := map[string]string{"KEYTREE_DATA_DIR": t.TempDir()}
	for name, value := range service.Environment {
		env[name] = regexp.MustCompile(`\$\{[^}]*\}`).ReplaceAllString(value, "secret")
	}
	cmd := understood(t, env, program(instruction("CMD"))...)
	if node := cmd.Flags().Lookup("node").Value.String(); node != "node:8332" {
		t.Errorf("it follows the node %q", node)
	}
	understood(t, map[string]string{"KEYTREE_HTTP_LISTEN": env["KEYTREE_HTTP_LISTEN"]}, "status", "--ready")
	if grace, err := time.ParseDuration(service.Grace); err != nil || grace <= stopLimit {
		t.Errorf("it has %s to stop, %v", service.Grace, err)
	}
}

// TestUnit checks what the unit file says, and has systemd check it.
func TestUnit(t *testing.T) {
	unit := readPackage(t, "systemd/keytree.service")
	value := func(key string) string {
		t.Helper()
		found := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(unit)
		if found == nil {
			t.Fatalf("no %s", key)
		}
		return found[1]
	}
	start := strings.Fields(value("ExecStart"))
	name, dataDir, _ := strings.Cut(value("Environment"), "=")
	if cmd := understood(t, map[string]string{name: dataDir}, start[1:]...); cmd.Name() != "serve" {
		t.Errorf("it runs %q", start)
	}
	if dataDir != "/var/lib/"+value("StateDirectory") {
		t.Errorf("it writes to %s, which it may not", dataDir)
	}
	if stop, err := time.ParseDuration(value("TimeoutStopSec")); err != nil || stop <= stopLimit {
		t.Errorf("it has %v to stop, %v", stop, err)
	}
	if value("RestartPreventExitStatus") != strconv.Itoa(exitUsage) {
		t.Error("wrong usage is tried again")
	}
	connections := newLimitFlags(new(cobra.Command).Flags()).connections.value.All
	if files, err := strconv.Atoi(value("LimitNOFILE")); err != nil || files < connections+ownFiles {
		t.Errorf("it may open %d files, %v", files, err)
	}
	for key, want := range map[string]string{"Type": "notify", "DynamicUser": "yes", "ProtectSystem": "strict", "ExecReload": "/bin/kill -HUP $MAINPID"} {
		if got := value(key); got != want {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}

	analyze := installed(t, "systemd-analyze")
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keytree.service")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(unit, start[0], executable)), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, code := execute(t, analyze, "verify", "--man=no", file); code != 0 || said != "" {
		t.Errorf("systemd-analyze verify: exit code %d, %s", code, said)
	}
}
