package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v2"
)

const (
	// settingMark is the annotation of flags that are settings.
	settingMark = "keytree_setting"
	// envPrefix and the flag's name, in capitals and with underscores, make the
	// name of the environment variable.
	envPrefix = "KEYTREE_"
	// configName is the config file that is read, if it exists, from the data
	// folder.
	configName = "keytree.yaml"
	// maxConfig is the size in bytes above which a file is no config file.
	maxConfig = 1 << 20
)

// setting marks flags as settings, which can also come from the environment and
// from the config file.
func setting(flags *pflag.FlagSet, names ...string) {
	for _, name := range names {
		if err := flags.SetAnnotation(name, settingMark, nil); err != nil {
			panic(err) // no such flag
		}
	}
}

func isSetting(f *pflag.Flag) bool {
	_, ok := f.Annotations[settingMark]
	return ok
}

// placeFlags adds the flags that tell where settings and data are.
func placeFlags(flags *pflag.FlagSet) (dataDir *string) {
	flags.String("config", "", "config `FILE` (default DIR/"+configName+" if it exists)")
	dataDir = flags.String("data-dir", defaultDataDir(), "`DIR` of the server's data and of "+configName)
	setting(flags, "config", "data-dir")
	return dataDir
}

// defaultDataDir is keytree's folder where the system keeps the data of
// programs, "" if that is not known.
func defaultDataDir() string {
	var base string
	switch home, _ := os.UserHomeDir(); {
	case runtime.GOOS == "windows":
		base = os.Getenv("LocalAppData")
	case runtime.GOOS == "darwin" && home != "":
		base = filepath.Join(home, "Library", "Application Support")
	case filepath.IsAbs(os.Getenv("XDG_DATA_HOME")):
		base = os.Getenv("XDG_DATA_HOME")
	case home != "":
		base = filepath.Join(home, ".local", "share")
	}
	if base == "" {
		return ""
	}
	return filepath.Join(base, "keytree")
}

// readSettings gives the settings of cmd that are not on the command line their
// values from the environment and, unless the command is without, from the
// config file. An empty variable is as good as none.
func readSettings(cmd *cobra.Command) error {
	flags := cmd.Flags()
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value := os.Getenv(name); isSetting(f) && !f.Changed && value != "" {
			errs = append(errs, set(flags, f.Name, value, "environment variable "+name))
		}
	})
	if err := errors.Join(errs...); err != nil || flags.Lookup("config") == nil {
		return err
	}
	file, values, err := readConfig(flags.Lookup("config").Value.String(), flags.Lookup("data-dir").Value.String())
	if err != nil {
		return err
	}
	known := make(map[string]bool)
	collectSettings(cmd.Root(), known)
	delete(known, "config")
	for _, name := range slices.Sorted(maps.Keys(values)) {
		f := flags.Lookup(name)
		switch {
		case !known[name]:
			return fmt.Errorf("config file %s: unknown key %q: expected some of %s", file, shortened(name),
				strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		case values[name] == "":
			return fmt.Errorf("config file %s: %s: expected a value, got nothing", file, name)
		case f == nil || f.Changed: // another command's, or given otherwise
		default:
			if err := set(flags, name, values[name], fmt.Sprintf("config file %s: %s", file, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// set sets a flag from an origin that its error names.
func set(flags *pflag.FlagSet, name, value, origin string) error {
	err := flags.Set(name, value)
	if invalid := new(pflag.InvalidValueError); errors.As(err, &invalid) {
		err = invalid.Unwrap()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", origin, err)
	}
	return nil
}

// readConfig reads the config file: path, which must exist, or else the one in
// the data folder, if there is one.
func readConfig(path, dataDir string) (file string, values map[string]string, err error) {
	file = path
	if path == "" {
		if dataDir == "" {
			return "", nil, nil
		}
		file = filepath.Join(dataDir, configName)
	}
	f, err := os.Open(file)
	if path == "" && errors.Is(err, fs.ErrNotExist) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("config file: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return "", nil, fmt.Errorf("config file %s: %w", file, err)
	}
	if len(content) > maxConfig {
		return "", nil, fmt.Errorf("config file %s: expected at most %d bytes, got more", file, maxConfig)
	}
	if err := yaml.UnmarshalStrict(content, &values); err != nil {
		return "", nil, fmt.Errorf(`config file %s: expected lines of the form "flag: value": %w`, file, err)
	}
	if _, ok := values["data-dir"]; ok && path == "" {
		return "", nil, fmt.Errorf("config file %s: data-dir: expected it elsewhere, in --config FILE, KEYTREE_DATA_DIR or --data-dir: "+
			"this file was found by the data folder", file)
	}
	return file, values, nil
}

// collectSettings adds the names of what cmd, and all below it, take from the
// config file.
func collectSettings(cmd *cobra.Command, names map[string]bool) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if isSetting(f) && cmd.Flags().Lookup("config") != nil {
			names[f.Name] = true
		}
	})
	for _, sub := range cmd.Commands() {
		collectSettings(sub, names)
	}
}
