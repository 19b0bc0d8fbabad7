//! Contract of the store: every engine passes these tests.

use bytes::Bytes;
use hookward_core::clock::UnixMillis;
use hookward_gate::engine::dedup::DeliveryKey;
use hookward_gate::policy::OnDuplicate;
use sha2::{Digest as _, Sha256};

use super::*;

fn claim(n: u64) -> DeliveryClaim {
    let key = DeliveryKey(Sha256::digest(n.to_be_bytes()).into());
    DeliveryClaim {
        key,
        window_ms: 1000,
        on_duplicate: OnDuplicate::Refuse,
    }
}

fn host() -> HostName {
    HostName::parse("h.example").unwrap()
}

const DAY_MS: u64 = 86_400_000;

struct Kept {
    dir: tempfile::TempDir,
    clock: Clock,
    most: u64,
}

impl Kept {
    fn new(most: u64) -> Self {
        Self {
            dir: tempfile::TempDir::new().unwrap(),
            clock: Clock::at(UnixMillis(DAY_MS)),
            most,
        }
    }

    fn open(&self) -> DeliveryStore {
        let limits = StoreLimits {
            claims: self.most,
            ..StoreLimits::for_tests()
        };
        let path = self.dir.path().join(DELIVERIES_FILE);
        DeliveryStore::open(&path, self.clock.clone(), limits).unwrap()
    }
}

#[tokio::test]
async fn a_delivery_is_new_once() {
    let kept = Kept::new(100);
    let dedup = kept.open();
    let (first, held) = dedup.claim(&host(), &claim(1)).await;
    assert_eq!(first, Claimed::New);

    assert_eq!(
        dedup.claim(&host(), &claim(1)).await.0,
        Claimed::Pending,
        "still on its way"
    );
    held.confirm().await;
    assert_eq!(dedup.claim(&host(), &claim(1)).await.0, Claimed::Duplicate);

    let other = HostName::parse("other.example").unwrap();
    assert_eq!(
        dedup.claim(&other, &claim(1)).await.0,
        Claimed::New,
        "of another tunnel"
    );
    assert_eq!(dedup.claim(&host(), &claim(2)).await.0, Claimed::New);
    kept.clock.pass(Duration::from_secs(2));

    assert_eq!(
        dedup.claim(&host(), &claim(1)).await.0,
        Claimed::New,
        "its window is over"
    );
}

#[tokio::test]
async fn a_claim_that_is_given_up_can_be_made_again() {
    let kept = Kept::new(100);
    let writer = kept.open();
    drop(writer.claim(&host(), &claim(1)).await);
    assert_eq!(writer.claim(&host(), &claim(1)).await.0, Claimed::New);
}

#[tokio::test]
async fn what_was_confirmed_survives_a_restart_and_what_was_pending_does_not() {
    let kept = Kept::new(100);
    let writer = kept.open();
    let (_, done) = writer.claim(&host(), &claim(1)).await;
    done.confirm().await;

    let (_, pending) = writer.claim(&host(), &claim(2)).await;
    drop(writer);
    let writer = kept.open();
    assert_eq!(writer.claim(&host(), &claim(1)).await.0, Claimed::Duplicate);
    assert_eq!(writer.claim(&host(), &claim(2)).await.0, Claimed::New);

    drop(pending);
}

#[tokio::test]
async fn a_full_file_fails_closed_and_forgets_nothing() {
    let kept = Kept::new(3);
    let writer = kept.open();

    for n in 0..3 {
        let (claimed, held) = writer.claim(&host(), &claim(n)).await;
        assert_eq!(claimed, Claimed::New);
        held.confirm().await;
    }

    assert_eq!(writer.claim(&host(), &claim(9)).await.0, Claimed::Pending);
    assert_eq!(writer.claim(&host(), &claim(0)).await.0, Claimed::Duplicate);
    kept.clock.pass(Duration::from_secs(1));

    // A later commit removes the row; the test runner sets the deadline.
    while writer.claim(&host(), &claim(10)).await.0 != Claimed::New {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_tunnel_that_is_full_is_full_alone() {
    let kept = Kept::new(2);
    let writer = kept.open();

    for n in 0..5 {
        let (_, held) = writer.claim(&host(), &claim(n)).await;
        held.confirm().await;
    }

    assert_eq!(writer.claim(&host(), &claim(9)).await.0, Claimed::Pending);

    let other = HostName::parse("other.example").unwrap();
    for n in 0..2 {
        let (claimed, held) = writer.claim(&other, &claim(n)).await;
        assert_eq!(claimed, Claimed::New, "{n}");
        held.confirm().await;
    }

    drop(writer);
    let writer = kept.open();
    assert_eq!(
        writer.claim(&other, &claim(9)).await.0,
        Claimed::Pending,
        "counted again after a restart"
    );
}

#[tokio::test]
async fn a_clock_that_is_set_forgets_nothing() {
    let kept = Kept::new(10);
    let writer = kept.open();
    writer.claim(&host(), &claim(1)).await.1.confirm().await;

    for day in [0, 2 * DAY_MS] {
        kept.clock.set(UnixMillis(day));
        assert_eq!(
            writer.claim(&host(), &claim(1)).await.0,
            Claimed::Duplicate,
            "{day}"
        );
    }
}

fn webhook(order: OrderingKey, body: &'static [u8]) -> NewDelivery {
    NewDelivery::for_tests(order, body)
}

fn delivered() -> Outcome {
    Outcome::Delivered { status: 200 }
}

fn retry(after: u64) -> Outcome {
    Outcome::Retry {
        after: Duration::from_secs(after),
        status: Some(503),
        error: "not now".to_owned(),
    }
}

fn dead() -> Outcome {
    Outcome::Dead {
        status: Some(404),
        reason: "not found".to_owned(),
        response: Some(LastResponse {
            head: "content-type: text/plain".to_owned(),
            body: Bytes::from_static(b"no"),
        }),
    }
}

async fn due(store: &DeliveryStore) -> Vec<i64> {
    let due = store.heads("h.example", 100).await.unwrap();
    due.heads.iter().map(|head| head.seq).collect()
}

#[tokio::test]
async fn a_webhook_survives_a_restart_until_it_is_delivered() {
    let kept = Kept::new(100);
    let store = kept.open();
    let stored = store.accept(webhook(OrderingKey::None, b"one"), None).await;
    let stored = stored.unwrap();
    assert!(stored.is_first);
    drop(store);

    let store = kept.open();
    assert_eq!(store.counts(None).pending, 1);
    assert_eq!(store.tunnels_with_pending(), ["h.example".into()]);
    let due = store.heads("h.example", 100).await.unwrap();
    assert_eq!(due.heads.len(), 1);
    let head = due.heads[0];
    assert_eq!((head.id, head.attempts), (stored.head.id, 0));
    let payload = store.payload(head.seq).await.unwrap().unwrap();
    assert_eq!(payload.body, b"one".as_slice());

    let (tunnel, lease) = ("h.example".into(), store.lease("h.example").await.unwrap());
    store.begin(&tunnel, lease, head.seq);
    let next = store.settle(&tunnel, lease, head, delivered()).await;
    assert_eq!(next.unwrap(), None);
    assert_eq!(store.counts(None), Held::default());
    assert_eq!(store.payload(head.seq).await.unwrap(), None);
    drop(store);
    assert_eq!(kept.open().counts(None), Held::default());
}

#[tokio::test]
async fn an_attempt_is_counted_when_it_begins() {
    let kept = Kept::new(100);
    let store = kept.open();
    let stored = store.accept(webhook(OrderingKey::None, b"one"), None).await;
    let (tunnel, lease) = ("h.example".into(), store.lease("h.example").await.unwrap());
    store.begin(&tunnel, lease, stored.unwrap().head.seq);
    drop(store);

    let heads = kept.open().heads("h.example", 1).await.unwrap().heads;
    assert_eq!(heads[0].attempts, 1);
}

#[tokio::test]
async fn a_retry_waits_and_a_failing_head_blocks_its_own_key_only() {
    let kept = Kept::new(100);
    let store = kept.open();
    let (one, two) = (OrderingKey::Hash(1), OrderingKey::Hash(2));
    let mut heads = Vec::new();
    for order in [one, one, two, OrderingKey::None] {
        let stored = store.accept(webhook(order, b"x"), None).await.unwrap();
        heads.push(stored.head);
    }
    let mut first = due(&store).await;
    first.sort_unstable();
    assert_eq!(first, [heads[0].seq, heads[2].seq, heads[3].seq]);

    let (tunnel, lease) = ("h.example".into(), store.lease("h.example").await.unwrap());
    let next = store.settle(&tunnel, lease, heads[0], retry(60)).await;
    assert_eq!(next.unwrap(), None);
    assert_eq!(due(&store).await, [heads[2].seq, heads[3].seq]);
    let waits = store.heads("h.example", 100).await.unwrap().next_in;
    assert!(waits.is_some_and(|wait| wait <= Duration::from_secs(60)));

    kept.clock.pass(Duration::from_secs(61));
    assert!(due(&store).await.contains(&heads[0].seq));
    let next = store
        .settle(&tunnel, lease, heads[0], dead())
        .await
        .unwrap();
    assert_eq!(
        next.map(|head| head.seq),
        Some(heads[1].seq),
        "the key goes on"
    );
    assert_eq!(store.counts(Some("h.example")).dead, 1);
}

#[tokio::test]
async fn a_former_owner_changes_nothing() {
    let kept = Kept::new(100);
    let store = kept.open();
    let head = store
        .accept(webhook(OrderingKey::None, b"x"), None)
        .await
        .unwrap()
        .head;
    let tunnel = "h.example".into();
    let former = store.lease("h.example").await.unwrap();
    let owner = store.lease("h.example").await.unwrap();
    assert!(owner.epoch > former.epoch);

    store.begin(&tunnel, former, head.seq);
    store
        .settle(&tunnel, former, head, delivered())
        .await
        .unwrap();
    assert_eq!(store.counts(None).pending, 1);
    assert_eq!(
        store.heads("h.example", 1).await.unwrap().heads[0].attempts,
        0
    );
    store
        .settle(&tunnel, owner, head, delivered())
        .await
        .unwrap();
    assert_eq!(store.counts(None).pending, 0);
}

#[tokio::test]
async fn bounds_hold_for_each_tunnel_each_agent_and_in_all() {
    let kept = Kept::new(100);
    let store = kept.open();
    let of = |tunnel: &str, owner| NewDelivery {
        tunnel: tunnel.into(),
        owner: AgentId(owner),
        payload: Payload {
            body: Bytes::from(vec![0; 200_000]),
            ..webhook(OrderingKey::None, b"").payload
        },
        ..webhook(OrderingKey::None, b"")
    };
    for _ in 0..2 {
        store.accept(of("a.example", 1), None).await.unwrap();
        store.accept(of("b.example", 2), None).await.unwrap();
    }
    assert_eq!(
        store.accept(of("a.example", 1), None).await,
        Err(StoreRefusal::TunnelFull)
    );
    assert_eq!(
        store.refusal("a.example", AgentId(1), 200_000),
        Some(StoreRefusal::TunnelFull)
    );
    // Another host of an agent gives it no more room, also after a restart.
    let agent_full = Err(StoreRefusal::AgentFull);
    assert_eq!(store.accept(of("c.example", 1), None).await, agent_full);
    drop(store);
    let store = kept.open();
    assert_eq!(store.accept(of("c.example", 1), None).await, agent_full);

    store.accept(of("c.example", 3), None).await.unwrap();
    assert_eq!(
        store.accept(of("d.example", 4), None).await,
        Err(StoreRefusal::Full)
    );
    assert_eq!(store.counts(None).pending, 5);
}

#[tokio::test]
async fn the_commit_of_a_webhook_confirms_its_claim() {
    let kept = Kept::new(100);
    let store = kept.open();
    let (claimed, held) = store.claim(&host(), &claim(1)).await;
    assert_eq!(claimed, Claimed::New);
    store
        .accept(webhook(OrderingKey::None, b"x"), Some(held))
        .await
        .unwrap();
    drop(store);
    assert_eq!(
        kept.open().claim(&host(), &claim(1)).await.0,
        Claimed::Duplicate
    );
}

#[tokio::test]
async fn what_has_ended_is_removed_after_its_time() {
    let kept = Kept::new(100);
    let store = kept.open();
    let (tunnel, lease) = ("h.example".into(), store.lease("h.example").await.unwrap());
    let head = store
        .accept(webhook(OrderingKey::None, b"x"), None)
        .await
        .unwrap()
        .head;
    store.settle(&tunnel, lease, head, dead()).await.unwrap();
    assert_eq!(
        (store.counts(None).dead, store.counts(None).pending),
        (1, 0)
    );

    kept.clock.pass(Duration::from_secs(31));
    while store.counts(None) != Held::default() {
        store.lease("h.example").await.unwrap();
    }
    assert_eq!(store.payload(head.seq).await.unwrap(), None);
}

/// An attempt that was running when the relay was killed follows after the clock was set back.
#[tokio::test]
async fn a_clock_that_was_set_back_delays_by_an_hour_at_most() {
    let kept = Kept::new(100);
    let store = kept.open();
    let running = NewDelivery {
        attempts: 1,
        due_in: Duration::from_secs(60),
        ..webhook(OrderingKey::None, b"x")
    };
    let head = store.accept(running, None).await.unwrap().head;
    assert_eq!((head.attempts, due(&store).await.len()), (1, 0));
    drop(store);

    kept.clock.set(UnixMillis(0));
    let store = kept.open();
    kept.clock.pass(Duration::from_secs(3601));
    assert_eq!(due(&store).await, [head.seq]);
}

#[tokio::test]
async fn content_of_delivered_webhooks_stays_for_its_time() {
    let kept = Kept::new(100);
    let limits = StoreLimits {
        keep_done: Duration::from_secs(3),
        keep_history: Duration::from_secs(60),
        ..StoreLimits::for_tests()
    };
    let path = kept.dir.path().join(DELIVERIES_FILE);
    let store = DeliveryStore::open(&path, kept.clock.clone(), limits).unwrap();
    let (tunnel, lease) = ("h.example".into(), store.lease("h.example").await.unwrap());
    let head = store
        .accept(webhook(OrderingKey::None, b"x"), None)
        .await
        .unwrap()
        .head;
    store
        .settle(&tunnel, lease, head, delivered())
        .await
        .unwrap();
    assert!(store.counts(None).bytes > 0);

    kept.clock.pass(Duration::from_secs(4));
    while store.counts(None).bytes > 0 {
        store.lease("h.example").await.unwrap();
    }
    let detail = store.detail(head.id, None).await.unwrap().unwrap();
    assert_eq!(detail.row.state, DeliveryState::Delivered);
    assert!(detail.payload.is_none());

    kept.clock.pass(Duration::from_secs(60));
    while store.detail(head.id, None).await.unwrap().is_some() {
        store.lease("h.example").await.unwrap();
    }
}

/// A webhook that no attempt can be made of does not stay for ever.
#[tokio::test]
async fn what_is_too_old_is_given_up_without_an_attempt() {
    let kept = Kept::new(100);
    let store = kept.open();
    let first = store
        .accept(webhook(OrderingKey::Hash(1), b"old"), None)
        .await
        .unwrap();
    kept.clock.pass(Duration::from_secs(3600));
    store
        .accept(webhook(OrderingKey::Hash(1), b"new"), None)
        .await
        .unwrap();
    kept.clock.pass(Duration::from_secs(3601));
    while store.counts(None).dead == 0 {
        store.lease("h.example").await.unwrap();
    }
    assert_eq!(store.counts(None).pending, 1);
    let due = due(&store).await;
    assert!(due.len() == 1 && due[0] > first.head.seq, "{due:?}");
}

/// After the loss of the file, the agent must not take the relay for a former owner.
#[tokio::test]
async fn epochs_grow_over_the_loss_of_the_file() {
    let kept = Kept::new(100);
    let before = kept.open().lease("h.example").await.unwrap();
    kept.clock.pass(Duration::from_secs(1));
    let other = Kept {
        clock: kept.clock.clone(),
        ..Kept::new(100)
    };
    assert!(other.open().lease("h.example").await.unwrap().epoch > before.epoch);
}

/// Responses take room of the bounds; without any, the payload stays alone.
#[tokio::test]
async fn responses_of_dead_letters_count() {
    let kept = Kept::new(100);
    let store = kept.open();
    let (tunnel, lease) = ("h.example".into(), store.lease("h.example").await.unwrap());
    let stored = store.accept(webhook(OrderingKey::None, b"x"), None).await;
    let head = stored.unwrap().head;
    let payload = store.counts(None).bytes;
    store.settle(&tunnel, lease, head, dead()).await.unwrap();
    let with_response = store.counts(None).bytes;
    assert!(with_response > payload);
    assert_eq!(kept.open().counts(None).bytes, with_response);

    store
        .change(vec![head.seq], Change::Redeliver)
        .await
        .unwrap();
    assert_eq!(store.counts(None).bytes, payload);
    let large = Outcome::Dead {
        status: Some(404),
        reason: "not found".to_owned(),
        response: Some(LastResponse {
            head: String::new(),
            body: vec![b'x'; 1 << 19].into(),
        }),
    };
    store.settle(&tunnel, lease, head, large).await.unwrap();
    let detail = store.detail(head.id, None).await.unwrap().unwrap();
    assert!(detail.response.is_none() && detail.payload.is_some());
    store.change(vec![head.seq], Change::Drop).await.unwrap();
    assert_eq!(store.counts(None), Held::default());
}

/// A page reads its windows in order, and a text is found in old payloads.
#[tokio::test]
async fn a_search_goes_through_all_windows() {
    let kept = Kept::new(100);
    let store = kept.open();
    let mut ids = Vec::new();
    for number in 0..300 {
        let body: &[u8] = if number % 100 == 0 { b"needle" } else { b"hay" };
        let stored = store.accept(webhook(OrderingKey::None, body), None).await;
        ids.push(stored.unwrap().head.id);
    }
    let page = store
        .page(DeliveryFilter::default(), None, 300)
        .await
        .unwrap();
    let listed: Vec<_> = page.rows.iter().rev().map(|row| row.id).collect();
    assert!(listed == ids && !page.has_more);

    let filter = DeliveryFilter {
        text: Some("needle".to_owned()),
        ..DeliveryFilter::default()
    };
    let page = store.page(filter.clone(), None, 2).await.unwrap();
    let found: Vec<_> = page.rows.iter().map(|row| row.id).collect();
    assert_eq!(found, [ids[200], ids[100]]);
    assert!(page.has_more);
    let rest = store.page(filter, Some(page.rows[1].seq), 2).await.unwrap();
    assert_eq!(rest.rows.len(), 1);
}
