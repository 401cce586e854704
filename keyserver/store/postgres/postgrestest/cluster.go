// Package postgrestest runs a private PostgreSQL for tests, with its files in a folder of the
// test's, reached by a Unix socket there. It ends with the process that started it, however
// that ends.
//
// What never belongs here: what a test does with it.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Cluster is a running PostgreSQL.
type Cluster struct {
	dir    string
	bin    string   // folder of PostgreSQL's programs
	as     []string // what has a program run as somebody who is not root, before it
	server *exec.Cmd
	alive  io.Closer // the server ends when it is closed, or this process ends
}

// required, in the environment, has tests fail that would be skipped for lack of a program.
const required = "KEYTREE_CLIENTS"

// port is part of the socket's name: nothing listens on a network.
const port = 5432

// Start makes a cluster and starts it, until the test ends. Where there is no PostgreSQL it
// skips the test, or has it fail if KEYTREE_CLIENTS is set. Settings are lines of
// postgresql.conf.
func Start(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	c := newCluster(t)
	if out, err := c.command(filepath.Join(c.bin, "initdb"), "-D", c.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8",
		"--locale=C", "--no-sync", "--data-checksums").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	c.configure(t, append([]string{
		"listen_addresses = ''", "max_connections = 300", "shared_buffers = 32MB", "wal_level = replica", "logging_collector = off",
	}, settings...)...)
	c.Begin(t)
	t.Cleanup(func() { c.Kill(t) })
	return c
}

// Replica makes a cluster that follows this one by streaming, under a name that
// synchronous_standby_names may have, and starts it, until the test ends.
func (c *Cluster) Replica(t testing.TB, name string) *Cluster {
	t.Helper()
	r := newCluster(t)
	if out, err := r.command(filepath.Join(r.bin, "pg_basebackup"), "-h", c.dir, "-p", strconv.Itoa(port), "-U", "postgres", "-D", r.data(),
		"--checkpoint=fast", "--no-sync", "--wal-method=stream").CombinedOutput(); err != nil {
		t.Fatalf("pg_basebackup: %v\n%s", err, out)
	}
	r.configure(t, fmt.Sprintf("primary_conninfo = 'host=%s port=%d user=postgres application_name=%s'", c.dir, port, name))
	if out, err := r.command("touch", filepath.Join(r.data(), "standby.signal")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.Begin(t)
	t.Cleanup(func() { r.Kill(t) })
	return r
}

// Lose kills a replica, and waits until this cluster has noticed: the replica's processes live a
// little longer than what has started them, and go on following.
func (c *Cluster) Lose(t testing.TB, replica *Cluster) {
	t.Helper()
	replica.Kill(t)
	c.Await(t, "SELECT NOT EXISTS (SELECT FROM pg_stat_replication)")
}

// Promote has a replica become a server that writes, with what it has.
func (c *Cluster) Promote(t testing.TB) {
	t.Helper()
	c.Exec(t, "SELECT pg_promote()")
}

// Set changes settings of a running server: NAME = VALUE. They are in force when it returns, also the names of replicas, which
// not a session but the checkpointer puts into force.
func (c *Cluster) Set(t testing.TB, settings ...string) {
	t.Helper()
	for _, setting := range settings {
		c.Exec(t, "ALTER SYSTEM SET "+setting)
	}
	// A new session has the time from the postmaster, which tells all others before it makes one.
	before := c.loaded(t)
	c.Exec(t, "SELECT pg_reload_conf()")
	for c.loaded(t).Equal(before) {
		time.Sleep(time.Millisecond)
	}
	c.Exec(t, "CHECKPOINT") // the checkpointer reads its settings first
}

// loaded is when the server has read its settings last.
func (c *Cluster) loaded(t testing.TB) (at time.Time) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), c.URL("postgres", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(context.Background(), "SELECT pg_conf_load_time()").Scan(&at); err != nil {
		t.Fatal(err)
	}
	return at
}

// Exec runs SQL.
func (c *Cluster) Exec(t testing.TB, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), c.URL("postgres", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// DemandPassword makes a role that may make schemas, and has the server demand its password.
func (c *Cluster) DemandPassword(t testing.TB, role, password string) {
	t.Helper()
	c.Exec(t, fmt.Sprintf("CREATE ROLE %[1]s LOGIN PASSWORD '%[2]s'; GRANT CREATE ON DATABASE postgres TO %[1]s", role, password))
	path := filepath.Join(c.data(), "pg_hba.conf")
	rules, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, append([]byte("local all "+role+" scram-sha-256\n"), rules...), 0o600) // the first that fits counts
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Exec(t, "SELECT pg_reload_conf()")
}

// Await waits until the answer to SQL is true. It fails the test if something comes from ended before.
func (c *Cluster) Await(t testing.TB, sql string, ended ...<-chan error) {
	t.Helper()
	conn := c.Connect(t, "postgres", nil)
	for {
		var is bool
		if err := conn.QueryRow(t.Context(), sql).Scan(&is); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if is {
			return
		}
		for _, c := range ended {
			select {
			case err := <-c:
				t.Fatalf("%s: this has not come, but %v", sql, err)
			default:
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// Exhaust has the server write its write-ahead log until it ends for want of room.
func (c *Cluster) Exhaust(t testing.TB) {
	t.Helper()
	var err error
	for err == nil {
		var conn *pgx.Conn
		if conn, err = pgx.Connect(context.Background(), c.URL("postgres", nil)); err == nil {
			_, err = conn.Exec(context.Background(), "SELECT pg_logical_emit_message(false, 'keytree', repeat('x', 1000000)) FROM generate_series(1, 100)")
			conn.Close(context.Background())
		}
	}
	said, readErr := os.ReadFile(filepath.Join(c.data(), "log"))
	if readErr != nil || !strings.Contains(string(said), "PANIC") || !strings.Contains(string(said), "No space left on device") {
		t.Errorf("the server has not ended for want of room: %v, %v\n%s", err, readErr, said)
	}
}

// newCluster makes a folder for a cluster.
func newCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{}
	if err := c.find(); err != nil {
		if os.Getenv(required) != "" {
			t.Fatalf("%s is set, but PostgreSQL cannot be run: %v", required, err)
		}
		t.Skipf("PostgreSQL cannot be run: %v", err)
	}
	// A socket's path has at most about 100 bytes, and t.TempDir's may have more.
	parent := ""
	if _, benchmark := t.(*testing.B); !benchmark {
		if _, err := os.Stat("/dev/shm"); err == nil {
			parent = "/dev/shm" // it is written often
		}
	}
	dir, err := os.MkdirTemp(parent, "pg-")
	if err != nil {
		t.Fatal(err)
	}
	c.dir = dir
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil { // for whoever the server runs as
		t.Fatal(err)
	}
	return c
}

// configure adds lines to postgresql.conf.
func (c *Cluster) configure(t testing.TB, settings ...string) {
	t.Helper()
	settings = append(settings, fmt.Sprintf("unix_socket_directories = '%s'", c.dir),
		"dynamic_shared_memory_type = mmap") // in the folder: what is killed leaves it behind
	file, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = fmt.Fprintln(file, strings.Join(settings, "\n"))
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// find finds PostgreSQL's programs, and somebody to run them as.
func (c *Cluster) find() error {
	candidates, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // Debian's, not in PATH
	if err != nil {
		return err
	}
	slices.Reverse(candidates)
	if path, err := exec.LookPath("initdb"); err == nil {
		candidates = append([]string{path}, candidates...)
	}
	for _, path := range candidates {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			c.bin = filepath.Dir(path)
			break
		}
	}
	if c.bin == "" {
		return errors.Join(errors.New("no initdb in PATH or /usr/lib/postgresql"), err)
	}
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} { // PostgreSQL refuses root
		if u, err := user.Lookup(name); err == nil {
			c.as = []string{"setpriv", "--reuid=" + u.Uid, "--regid=" + u.Gid, "--clear-groups", "--"}
			_, err = exec.LookPath("setpriv")
			return err
		}
	}
	return errors.New("it refuses root, and there is no user postgres or nobody")
}

func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	whole := append(append(slices.Clone(c.as), name), args...)
	cmd := exec.Command(whole[0], whole[1:]...)
	cmd.Dir = "/"
	return cmd
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

// Begin starts the server, which is not running, and waits until it answers.
func (c *Cluster) Begin(t testing.TB) {
	t.Helper()
	// The shell ends the server when its standard input ends: when this process closes it, or
	// has itself ended in any way.
	const script = `exec 3<&0
		"$1/postgres" -D "$2" </dev/null >"$2/log" 2>&1 3<&- & server=$!
		(cat <&3 >/dev/null; kill -QUIT $server) 2>/dev/null & wait $server`
	server := c.command("sh", "-c", script, "sh", c.bin, c.data())
	group(server)
	in, err := server.StdinPipe()
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	c.server, c.alive = server, in
	ended := make(chan struct{})
	go func() { server.Wait(); close(ended) }()
	for {
		conn, err := pgx.Connect(context.Background(), c.URL("postgres", nil))
		if err == nil {
			conn.Close(context.Background())
			return
		}
		select {
		case <-ended:
			log, _ := os.ReadFile(filepath.Join(c.data(), "log"))
			if strings.Contains(string(log), "shared memory") || strings.Contains(string(log), "lock file") {
				in.Close()
				c.Begin(t) // processes of the one before are still ending
				return
			}
			t.Fatalf("PostgreSQL does not start: %v\n%s", err, log)
		default:
		}
	}
}

// Kill ends the server and all its processes, as a crash of the machine would.
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	if err := killGroup(c.server); err != nil {
		t.Error(err)
	}
	c.alive.Close()
}

// Postmaster returns the process that has started all others of the server.
func (c *Cluster) Postmaster(t testing.TB) *os.Process {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	return process
}

// URL returns that of a database, with parameters.
func (c *Cluster) URL(database string, more url.Values) string {
	query := url.Values{"host": {c.dir}, "port": {strconv.Itoa(port)}}
	for name, values := range more {
		query[name] = values
	}
	return "postgres://postgres@/" + database + "?" + query.Encode()
}

// Connect connects to a database until the test ends.
func (c *Cluster) Connect(t testing.TB, database string, more url.Values) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.URL(database, more))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// Inserts has pgbench insert rows of 500 bytes by so many clients, 50 each, and returns how
// many a second: what the server does at best with a commit for each.
func (c *Cluster) Inserts(b *testing.B, clients int) float64 {
	b.Helper()
	conn := c.Connect(b, "postgres", nil)
	if _, err := conn.Exec(b.Context(), "CREATE TABLE IF NOT EXISTS inserts (id bigserial PRIMARY KEY, value text)"); err != nil {
		b.Fatal(err)
	}
	script := filepath.Join(c.dir, "inserts.sql")
	if err := os.WriteFile(script, []byte("INSERT INTO inserts (value) VALUES (repeat('x', 500));\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	out, err := c.command(filepath.Join(c.bin, "pgbench"), "-h", c.dir, "-U", "postgres", "-n", "-c", strconv.Itoa(clients), "-j", "2", "-t", "50", "-f", script, "postgres").CombinedOutput()
	if err != nil {
		b.Fatalf("pgbench: %v\n%s", err, out)
	}
	_, rest, _ := strings.Cut(string(out), "tps = ")
	var inserts float64
	if _, err := fmt.Sscanf(rest, "%f", &inserts); err != nil {
		b.Fatalf("pgbench: %v\n%s", err, out)
	}
	return inserts
}
