package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// measured is a server with everything that there are metrics of, on a real node.
type measured struct {
	*anchoredServer
	metrics string // URL
}

func startMeasured(t *testing.T) *measured {
	t.Helper()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	dir := t.TempDir()
	s := startAnchored(t, n, dir, "--witness-policy", witnessOf(t, dir), "--witness-interval", "1s", "--metrics-listen", "127.0.0.1:0",
		"--state-log-key", filepath.Join(dir, "state.key"), "--state-log-host", "example.org", "--cosign-key", filepath.Join(dir, "cosign.key"),
		"--cosign-name", "example.org/w", "--cosign-logs", ownStateLog(t, dir), "--unlimited", "192.0.2.1", "--keyserver-rate", "1", "--limit-streams", "8/1", "--timeout-slow", "1s", "--mempool-max-actions", "1")
	m := &measured{anchoredServer: s}
	m.metrics = "http://" + field(t, s.await(&s.stderr, `"message":"serving"`), "metrics")
	s.await(&s.stderr, "the hashchain agrees with its anchors")
	awaitTip(t, s.grpc, n)
	return m
}

// ownStateLog makes the key of the state log of a server that is yet to be started in a folder, whose first block is known
// for two hours, and returns a policy that names the log.
func ownStateLog(t *testing.T, dir string) string {
	t.Helper()
	log, err := tlog.Open(tlog.Options{Origin: protocol.StateOrigin("example.org", regtest.Params.Name, 1), KeyFile: filepath.Join(dir, "state.key"), StateFile: filepath.Join(dir, "state.key.json")})
	if err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(dir, "state-logs")
	write(t, policy, "log "+log.Key().String()+"\nquorum none\n")
	if err := errors.Join(log.Close(), os.Mkdir(filepath.Join(dir, "state-log"), 0o700)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "state-log", "known.json"), fmt.Sprintf(`[{"time":%d,"height":0,"block":"%v"}]`, time.Now().Add(-2*time.Hour).Unix(), regtest.Params.GenesisHash))
	return policy
}

// moveStateLog moves what tells of the state log.
func (m *measured) moveStateLog(moves mover) {
	t := m.t
	t.Helper()
	regtest.Await(t, func() string {
		if signed := m.value(series{name: "keytree_state_log_signed_entries"}); signed != 1 {
			return fmt.Sprintf("%v entries are signed", signed)
		}
		return ""
	})
	if epoch, stopped := m.value(series{name: "keytree_state_log_epoch"}), m.value(series{name: "keytree_state_log_stopped"}); epoch != 1 || stopped != 0 {
		t.Errorf("epoch %v, stopped %v of a state log that signs", epoch, stopped)
	}
	text, err := os.ReadFile(filepath.Join(m.dir, "state.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := format.ParseKey(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	moves(func() {
		lie := format.Submission{Checkpoint: key.Sign(format.Checkpoint{Origin: key.Name(), Size: 1})}
		response, err := m.client.Post("http://"+m.keyserverProgram.rest+"/state/add-checkpoint", "text/plain", bytes.NewReader(lie.Marshal()))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}, series{name: "keytree_state_log_differing"})
}

// witnessOf runs a witness of the log of a keyserver that is yet to be started in a folder, and returns a
// policy that names it, and one that is away.
func witnessOf(t *testing.T, dir string) string {
	t.Helper()
	log, err := tlog.Open(newLogOptions("example.org", dir))
	if err != nil {
		t.Fatal(err)
	}
	key := log.Key().String()
	away, err := format.GenerateKey("away.example")
	if err := errors.Join(err, log.Close()); err != nil {
		t.Fatal(err)
	}
	own := t.TempDir()
	write(t, filepath.Join(own, "logs"), "log "+key+"\nquorum none\n")
	w := startProgram(t, nil, "witness", "--key", filepath.Join(own, "key"), "--name", "witness.example", "--logs", filepath.Join(own, "logs"),
		"--listen", "127.0.0.1:0", "--log-format", "json")
	serving := w.await(&w.stderr, `"message":"serving"`)
	policy := filepath.Join(own, "policy")
	write(t, policy, fmt.Sprintf("witness here %s http://%s\nwitness away %s http://%s\ngroup any any here away\nquorum any\n",
		field(t, serving, "key"), field(t, serving, "witness"), away.Witness(), nowhere))
	return policy
}

// scrape reads all metrics.
func (m *measured) scrape() map[string]*dto.MetricFamily {
	m.t.Helper()
	response, err := m.client.Get(m.metrics + "/metrics")
	if err != nil {
		m.t.Fatal(err)
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return families
}

// series are those of a metric that have a value of a label; without a label, all.
type series struct{ name, label, value string }

// value returns a sum: of what these are, or of how often they, as histograms, were told
// something.
func (m *measured) value(of series) (sum float64) {
	m.t.Helper()
	for _, one := range m.scrape()[of.name].GetMetric() {
		if of.label != "" && !slices.ContainsFunc(one.Label, func(l *dto.LabelPair) bool { return l.GetName() == of.label && l.GetValue() == of.value }) {
			continue
		}
		sum += one.GetGauge().GetValue() + one.GetCounter().GetValue() + float64(one.GetHistogram().GetSampleCount())
	}
	return sum
}

// specified is what metrics.yaml says of each metric.
func specified(t *testing.T) map[string]specifiedMetric {
	t.Helper()
	text, err := os.ReadFile("../../rpc/metrics/metrics.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Metrics []specifiedMetric }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]specifiedMetric)
	for _, s := range file.Metrics {
		all[s.Name] = s
	}
	return all
}

type specifiedMetric struct {
	Name, Type, Help string
	Labels           map[string]string
}

// TestMetrics has everything happen on a real chain that there is a metric of, and sees each
// move; compares those that there are with metrics.yaml; and, where there is a Prometheus, has that
// make the queries of the dashboard.
func TestMetrics(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	m := startMeasured(t)
	moved := make(map[string]bool)
	moves := func(do func(), all ...series) {
		t.Helper()
		var before []float64
		for _, of := range all {
			before = append(before, m.value(of))
		}
		do()
		for i, of := range all {
			regtest.Await(t, func() string {
				if m.value(of) != before[i] {
					return ""
				}
				return fmt.Sprintf("%+v is still %v; standard error:\n%s", of, before[i], m.errors())
			})
			moved[of.name] = true
		}
	}
	nothing := func() {}
	m.moveChain(moves)
	m.moveKeyserver(moves)
	m.moveStateLog(moves)
	for _, name := range []string{"keytree_state_log_signed_entries", "keytree_state_log_epoch", "keytree_state_log_stopped"} {
		moved[name] = true
	}
	m.moveClients(t, moves)
	moves(nothing, series{name: "keytree_tip_age_seconds"})
	moves(func() {
		if err := os.WriteFile(filepath.Join(m.dir, "filler"), make([]byte, 4<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}, series{"keytree_disk_free_bytes", "db", "index"})
	moves(func() {
		if _, err := m.node.Mine(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
	}, series{"keytree_db_bytes", "db", "index"})
	if m.value(series{"keytree_build_info", "version", version()}) != 1 {
		t.Errorf("keytree_build_info does not tell version %q: %v", version(), m.scrape()["keytree_build_info"])
	}
	moved["keytree_build_info"] = true
	if stopped := m.scrape()["keytree_log_stopped"]; len(stopped.GetMetric()) != 1 || stopped.Metric[0].Gauge.GetValue() != 0 {
		t.Errorf("keytree_log_stopped is %v of a log that signs", stopped)
	}
	moved["keytree_log_stopped"] = true
	regtest.Await(t, func() string {
		if m.value(series{name: "keytree_mempool_followed"}) != 1 {
			return "the mempool is not followed"
		}
		return ""
	})
	moved["keytree_mempool_followed"] = true

	families := m.scrape()
	for name, want := range specified(t) {
		family := families[name]
		if family == nil {
			t.Errorf("%s is specified, and not there", name)
			continue
		}
		if got := strings.ToLower(family.GetType().String()); got != want.Type || family.GetHelp() != want.Help {
			t.Errorf("%s: %s, %q; specified: %s, %q", name, got, family.GetHelp(), want.Type, want.Help)
		}
		for _, series := range family.Metric {
			labels := make(map[string]bool)
			for _, l := range series.Label {
				labels[l.GetName()] = true
			}
			if got := slices.Sorted(maps.Keys(labels)); !slices.Equal(got, slices.Sorted(maps.Keys(want.Labels))) {
				t.Errorf("%s has the labels %v, specified: %v", name, got, want.Labels)
			}
		}
	}
	for name := range families {
		if _, ok := specified(t)[name]; !ok && strings.HasPrefix(name, "keytree_") {
			t.Errorf("%s is there, and not specified", name)
		}
	}
	t.Run("dashboard", m.queryDashboard)
	t.Run("profiles", m.askForProfiles)

	// The node goes last, since nothing goes on without it.
	if err := m.node.Halt(); err != nil {
		t.Fatal(err)
	}
	moves(nothing, series{"keytree_node_errors_total", "op", "tip"})
	moves(func() {
		if err := m.node.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}, series{name: "keytree_synced"})
	for name := range specified(t) {
		if !moved[name] {
			t.Errorf("nothing has moved %s", name)
		}
	}
}

// mover does something and waits until all of some metrics are others than before.
type mover func(do func(), all ...series)

// moveChain moves what tells of the index.
func (m *measured) moveChain(moves mover) {
	t, ctx := m.t, m.t.Context()
	t.Helper()
	child, parent, other := regtest.NewKey(), regtest.NewKey(), regtest.NewKey()
	fund(ctx, t, m.node, child, child, parent, parent, parent, other, other, other)
	mine(t, m.grpc, m.node)
	w := &linkWorld{t: t, node: m.node, server: m.grpc, rest: m.rest}
	moves(func() { mine(t, m.grpc, m.node) }, series{name: "keytree_tip_height"}, series{name: "keytree_node_height"},
		series{name: "keytree_blocks_total"}, series{name: "keytree_block_apply_seconds"})
	var request, accept string
	moves(func() { request = w.send(child, "request", "--parent", parent.Address()) },
		series{name: "keytree_mempool_transactions"}, series{name: "keytree_mempool_shown"})
	moves(func() { w.send(other, "request", "--parent", parent.Address()) }, series{name: "keytree_mempool_omitted"})
	moves(func() { mine(t, m.grpc, m.node) }, series{"keytree_actions_total", "outcome", "opened"})
	moves(func() { accept = w.link(parent, "accept", request) },
		series{"keytree_actions_total", "outcome", "formed"}, series{name: "keytree_keys"}, series{name: "keytree_identities"})
	moves(func() { w.link(parent, "revoke", accept) }, series{"keytree_actions_total", "outcome", "cut"})
	moves(func() { w.link(other, "accept", request, "--force") }, series{"keytree_actions_total", "outcome", "refused"})
	moves(func() { w.link(other, "accept", strings.Repeat("ab", 32), "--force") },
		series{"keytree_actions_total", "outcome", "waiting"}, series{name: "keytree_waiting"})
	moves(func() {
		if _, err := m.node.Reorg(ctx, 2, nil, nil, nil); err != nil {
			t.Fatal(err)
		}
		awaitTip(t, m.grpc, m.node)
	}, series{name: "keytree_reorgs_total"}, series{name: "keytree_reorg_depth"})
	if depth := m.scrape()["keytree_reorg_depth"].Metric[0].Histogram; depth.GetSampleSum() != 2 {
		t.Errorf("a reorganisation of 2 blocks took back %v", depth.GetSampleSum())
	}
}

// moveKeyserver moves what tells of the keyserver and of its anchors.
func (m *measured) moveKeyserver(moves mover) {
	t := m.t
	t.Helper()
	moves(func() { m.must("keyserver", "rotate-key") }, series{name: "keytree_keyserver_entries"})
	moves(func() { m.must("keyserver", "rotate-key") },
		series{name: "keytree_log_signed_entries"}, series{name: "keytree_log_witnessed_entries"}, series{"keytree_log_witness_failures_total", "witness", "away"})
	moves(func() {}, series{name: "keytree_log_quorum_age_seconds"})
	moves(func() { m.must("keyserver", "rotate-key") }, series{name: "keytree_anchor_unanchored_entries"})
	moves(func() {
		payTo(t, m.node, m.status().Address, 1_000_000)
		mine(t, m.grpc, m.node)
	}, series{name: "keytree_anchor_left"})
	m.awaitAnchor(1)
	moves(func() {
		key, now := rpctest.NewKey(1), time.Now()
		message := rpctest.NewMessage("alice@example.org", base64.StdEncoding.EncodeToString(m.lastEntry()), key, now)
		m.post("createUID", rpctest.Object{"uid_message": string(message.Canonical())})
		init := rpctest.NewKeyInit(t, key, 1, false, now)
		m.post("addKeyInit", rpctest.Object{"sig_pub_key": []byte(key.Public().(ed25519.PublicKey)), "key_inits": []string{string(init.Canonical())}, "tokens": []string{""}})
	}, series{name: "keytree_keyinits"})
}

// lastEntry is that of the hashchain.
func (m *measured) lastEntry() []byte {
	m.t.Helper()
	var capabilities struct {
		Entry []byte `json:"key_hashchain_entry"`
	}
	if err := json.Unmarshal(mustGet(m.t, m.program, "/v1/keyserver"), &capabilities); err != nil {
		m.t.Fatal(err)
	}
	return capabilities.Entry
}

// post makes a call of the keyserver over REST.
func (m *measured) post(call string, body any) {
	m.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		m.t.Fatal(err)
	}
	response, err := m.client.Post("http://"+m.keyserverProgram.rest+"/v1/keyserver:"+call, "application/json", strings.NewReader(string(text)))
	if err != nil {
		m.t.Fatal(err)
	}
	defer response.Body.Close()
	if answer, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		m.t.Fatalf("%s: %s %s", call, response.Status, answer)
	}
}

// moveClients moves what tells of clients.
func (m *measured) moveClients(t *testing.T, moves mover) {
	t.Helper()
	get := func(path string) {
		response, err := m.client.Get("http://" + m.keyserverProgram.rest + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	moves(func() { get("/v1/status") }, series{"keytree_rpc_seconds", "method", "GET /v1/status"})
	moves(func() { get("/v1/addresses/nonsense") }, series{"keytree_rpc_seconds", "code", "400"})
	moves(func() { keytree(t, "status", "--server", m.grpc) }, series{"keytree_rpc_seconds", "method", "keytree.v1.IdentityService/GetStatus"})
	moves(func() { m.call("KeyRepository.Capabilities", new(any)) }, series{"keytree_rpc_seconds", "method", "KeyRepository.Capabilities"})
	moves(func() {
		for range 30 { // ten are allowed at once, and one a second
			get("/v1/keyserver")
		}
	}, series{"keytree_rpc_rejected_total", "why", "calls of the keyserver"})

	conn, err := grpc.NewClient(m.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := func() error {
		stream, err := keytreev1.NewIdentityServiceClient(conn).Watch(ctx, &keytreev1.WatchRequest{})
		if err == nil {
			_, err = stream.Header()
		}
		return err
	}
	moves(func() {
		if err := watch(); err != nil {
			t.Fatal(err)
		}
	}, series{name: "keytree_stream_clients"})
	// One client may have one, and the next one takes its place when that has had it for
	// long enough.
	moves(func() {
		regtest.Await(t, func() string {
			if watch(); m.value(series{name: "keytree_stream_dropped_total"}) > 0 {
				return ""
			}
			return "no stream was dropped for another"
		})
	}, series{name: "keytree_stream_dropped_total"})
}

// queryDashboard has a Prometheus scrape the server, and make the queries of the dashboard.
func (m *measured) queryDashboard(t *testing.T) {
	program := installed(t, "prometheus")
	dir := t.TempDir()
	config := fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs: [{job_name: keytree, static_configs: [{targets: [%q]}]}]\n", strings.TrimPrefix(m.metrics, "http://"))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log syncBuffer
	cmd := exec.CommandContext(t.Context(), program, "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait() // it was killed
	}()
	listening := regexp.MustCompile(`Listening on.* address=(127\.0\.0\.1:[1-9]\d*)`)
	var address string
	regtest.Await(t, func() string {
		if found := listening.FindStringSubmatch(log.String()); found != nil {
			address = found[1]
			return ""
		}
		return "Prometheus does not listen: " + log.String()
	})

	text, err := os.ReadFile("../../scripts/grafana/keytree.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	queries, names := 0, string(text)
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries++
			expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "1m")
			regtest.Await(t, func() string {
				response, err := m.client.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(expr))
				if err != nil {
					return err.Error()
				}
				defer response.Body.Close()
				answer, err := io.ReadAll(response.Body)
				var parsed struct {
					Status string
					Data   struct{ Result []any }
				}
				if err != nil || json.Unmarshal(answer, &parsed) != nil || parsed.Status != "success" || len(parsed.Data.Result) == 0 {
					return fmt.Sprintf("%s: %s: %s", panel.Title, expr, answer)
				}
				return ""
			})
		}
	}
	if queries == 0 {
		t.Error("the dashboard has no queries")
	}
	for name := range specified(t) {
		if !strings.Contains(names, name) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}

// askForProfiles looks for Go's profiles where they are, and where they must not be.
func (m *measured) askForProfiles(t *testing.T) {
	for at, want := range map[string]int{
		m.metrics + "/debug/pprof/": 200, m.metrics + "/debug/pprof/heap": 200, m.metrics + "/debug/pprof/cmdline": 404, m.metrics + "/v1/status": 404,
		"http://" + m.keyserverProgram.rest + "/debug/pprof/": 404, "http://" + m.keyserverProgram.rest + "/metrics": 404,
	} {
		response, err := m.client.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s, want %d", at, response.Status, want)
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.metrics+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "evil.example"
	response, err := m.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("under another name: %s", response.Status)
	}
}
