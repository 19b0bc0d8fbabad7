//! Benchmark of the store beside bare SQLite with the same tables.

use std::time::Instant;

use hookward_core::clock::UnixMillis;
use hookward_gate::engine::OrderingKey;
use hookward_runtime::sqlite;
use rusqlite::{Connection, TransactionBehavior, params};

use super::schema::{SCHEMA, set_pragmas};
use super::*;
use crate::storage::agents::AgentId;

/// Number of webhooks of one run, and of senders.
const WEBHOOKS: usize = 30_000;
const SENDERS: usize = 256;

/// Number of rounds, which is odd: the result is their median.
const ROUNDS: usize = 15;

fn webhook() -> NewDelivery {
    NewDelivery {
        id: Uuid::now_v7(),
        tunnel: "flexdeploy.example".into(),
        owner: AgentId(1),
        route: "github".to_owned(),
        provider: Some("github".to_owned()),
        event: Some("push".to_owned()),
        order: OrderingKey::None,
        payload: Payload {
            head: vec![b'h'; 600].into(),
            grant: vec![b'g'; 900].into(),
            body: vec![b'b'; 6_500].into(),
        },
        attempts: 0,
        due_in: Duration::ZERO,
    }
}

/// Request to the thread with bare SQLite.
enum BareRequest {
    Accept(i64, Box<NewDelivery>, oneshot::Sender<()>),
    Settle(i64, oneshot::Sender<()>),
}

fn open_bare(dir: &Path, name: &str) -> Connection {
    let db = sqlite::open(&dir.join(name), &SCHEMA).unwrap();
    set_pragmas(&db).unwrap();
    let tunnel = "INSERT INTO tunnels (host) VALUES ('flexdeploy.example')";
    db.execute(tunnel, []).unwrap();
    db
}

/// Stores and settles batches as large as the number of senders, without any senders: one flush for
/// each batch that stores. Returns webhooks a second.
fn batches(dir: &Path) -> f64 {
    let mut db = open_bare(dir, "batches.db");
    let since = Instant::now();
    for batch in 0..WEBHOOKS / SENDERS {
        let seqs = (1..=SENDERS).map(|number| i64::try_from(batch * SENDERS + number).unwrap());
        let seqs: Vec<_> = seqs.collect();
        commit(&mut db, true, |db| {
            for seq in &seqs {
                accept::insert(db, 1, *seq, &webhook(), UnixMillis(1)).unwrap();
            }
        });
        commit(&mut db, false, |db| {
            for seq in &seqs {
                settle_bare(db, *seq);
            }
        });
    }
    WEBHOOKS as f64 / since.elapsed().as_secs_f64()
}

/// Stores and settles with concurrent senders, and a thread that only has a queue and SQLite. Returns
/// webhooks a second.
async fn bare(dir: &Path) -> f64 {
    let (requests, waiting) = std::sync::mpsc::channel();
    let mut db = open_bare(dir, "bare.db");
    let writer = std::thread::spawn(move || {
        while let Ok(first) = waiting.recv() {
            let rest = waiting.try_iter().take(BATCH_REQUESTS - 1);
            let batch: Vec<_> = std::iter::once(first).chain(rest).collect();
            let stores = |request: &BareRequest| matches!(request, BareRequest::Accept(..));
            commit(&mut db, batch.iter().any(stores), |db| {
                for request in &batch {
                    match request {
                        BareRequest::Accept(seq, delivery, _) => {
                            accept::insert(db, 1, *seq, delivery, UnixMillis(1)).unwrap();
                        }
                        BareRequest::Settle(seq, _) => settle_bare(db, *seq),
                    }
                }
            });
            for request in batch {
                let (BareRequest::Accept(_, _, answer) | BareRequest::Settle(_, answer)) = request;
                answer.send(()).unwrap();
            }
        }
    });

    let since = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let requests = requests.clone();
        senders.spawn(async move {
            for number in 0..WEBHOOKS / SENDERS {
                let seq = i64::try_from(number * SENDERS + sender).unwrap() + 1;
                let (answer, stored) = oneshot::channel();
                let accept = BareRequest::Accept(seq, Box::new(webhook()), answer);
                requests.send(accept).unwrap();
                stored.await.unwrap();
                let (answer, settled) = oneshot::channel();
                requests.send(BareRequest::Settle(seq, answer)).unwrap();
                settled.await.unwrap();
            }
        });
    }
    senders.join_all().await;
    let rate = WEBHOOKS as f64 / since.elapsed().as_secs_f64();
    drop(requests);
    writer.join().unwrap();
    rate
}

fn settle_bare(db: &Connection, seq: i64) {
    let end = "UPDATE deliveries SET state = 1, last_status = 200, ended_ms = 1 \
               WHERE seq = ?1 AND state = 0";
    let remove = "DELETE FROM payloads WHERE seq = ?1";
    let lane = "DELETE FROM lanes WHERE tunnel = 1 AND lane = ?1";
    for statement in [end, remove, lane] {
        let mut statement = db.prepare_cached(statement).unwrap();
        statement.execute(params![seq]).unwrap();
    }
}

fn commit(db: &mut Connection, flushes: bool, change: impl FnOnce(&rusqlite::Transaction<'_>)) {
    let synchronous = if flushes { "FULL" } else { "NORMAL" };
    db.pragma_update(None, "synchronous", synchronous).unwrap();
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate);
    let transaction = transaction.unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

/// Stores and settles with concurrent senders. Returns webhooks a second.
async fn store(dir: &Path) -> f64 {
    let limits = StoreLimits {
        bytes: 1 << 40,
        count: 1 << 40,
        tunnel_bytes: 1 << 40,
        tunnel_count: 1 << 40,
        ..StoreLimits::for_tests()
    };
    let store = SqliteDeliveries::open(&dir.join("store.db"), Clock::System, limits).unwrap();
    let tunnel: Arc<str> = "flexdeploy.example".into();
    let lease = store.lease(&tunnel).await.unwrap();
    let since = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..SENDERS {
        let (store, tunnel) = (store.clone(), Arc::clone(&tunnel));
        senders.spawn(async move {
            for _ in 0..WEBHOOKS / SENDERS {
                let stored = store.accept(webhook(), None).await.unwrap();
                store.begin(&tunnel, lease, stored.head.seq);
                let delivered = Outcome::Delivered { status: 200 };
                let settled = store.settle(&tunnel, lease, stored.head, delivered).await;
                settled.unwrap();
            }
        });
    }
    senders.join_all().await;
    WEBHOOKS as f64 / since.elapsed().as_secs_f64()
}

#[tokio::test]
#[ignore = "a benchmark, for a release build"]
async fn speed_beside_bare_sqlite() {
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let batches = tokio::task::spawn_blocking(move || batches(&path)).await;
        let batches = batches.unwrap();
        // The disk becomes slower or faster during a round.
        let (bare, store) = match round % 2 {
            0 => {
                let store = store(dir.path()).await;
                (bare(dir.path()).await, store)
            }
            _ => (bare(dir.path()).await, store(dir.path()).await),
        };
        ratios.push(store / bare);
        println!(
            "round {round}: batches {batches:.0}/s, bare {bare:.0}/s, store {store:.0}/s, {:.2} of bare",
            store / bare
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!("median of the ratios: {:.2}", ratios[ROUNDS / 2]);
}
